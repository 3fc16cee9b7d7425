//! The two sides of the weight formula agree.

use crate::common::tiny;

#[test]
fn weights_equal_the_python_side() {
    // printed by tests/reference/tiny.py: unit("probe", (4,)), weight("probe/a", (2, 3)), weight("norm.weight", (2,))
    let got = tiny::unit("probe", &[4]).to_vec1::<f32>().unwrap();
    assert_eq!(got, UNIT);
    let got = tiny::weight("probe/a", &[2, 3]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(got, MATRIX);
    let got = tiny::weight("norm.weight", &[2]).to_vec1::<f32>().unwrap();
    assert_eq!(got, VECTOR);
}

const UNIT: [f32; 4] = [-0.50883615, -0.959699273, 0.463724494, 0.519474387];
const MATRIX: [f32; 6] = [0.129942536, 0.830207348, -0.593078375, -0.371310472, -0.960218191, 0.132853031];
const VECTOR: [f32; 2] = [0.952589512, 0.905382931];
