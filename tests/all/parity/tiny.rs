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

const UNIT: [f32; 4] = [-0.50883615, -0.9596993, 0.4637245, 0.5194744];
const MATRIX: [f32; 6] = [0.12994254, 0.83020735, -0.5930784, -0.37131047, -0.9602182, 0.13285303];
const VECTOR: [f32; 2] = [0.9525895, 0.90538293];
