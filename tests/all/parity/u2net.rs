//! U²-Netp says what onnxruntime makes of the file that its weights come from; goldens by `tests/reference/u2net.py`.

use crate::common::golden;
use candle_core::Device;
use vidgen::saliency::{Saliency, bounds};
use vidgen::video::Frame;

const SIDE: usize = 320;

/// Largest difference of probabilities; the bar is 1e-3.
const LIMIT: f32 = 2e-4;

#[test]
fn three_free_pictures() {
    let golden = golden("u2net");
    let saliency = Saliency::embedded(&Device::Cpu).unwrap();
    for (name, around) in
        [("astronaut", [0.0, 0.0, 0.85, 1.0]), ("chelsea", [0.0, 0.0, 1.0, 1.0]), ("coffee", [0.1, 0.0, 0.85, 1.0])]
    {
        let pixels = golden[&format!("{name}.pixels")].to_vec3::<u8>().unwrap(); // [160, 160, 3]
        let data = (0..SIDE * SIDE).flat_map(|i| pixels[i / SIDE / 2][i % SIDE / 2].clone()).collect();
        let frame = Frame { width: SIDE, height: SIDE, data };
        let seen =
            saliency.probabilities(&frame).unwrap().squeeze(0).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        let want = golden[&format!("{name}.mask")].to_vec2::<f32>().unwrap(); // every 4th place from (1, 2)
        let mut most = 0f32;
        for (y, row) in want.iter().enumerate() {
            for (x, want) in row.iter().enumerate() {
                most = most.max((seen[4 * y + 1][4 * x + 2] - want).abs());
            }
        }
        println!("{name}: largest difference {most:.2e}");
        assert!(most <= LIMIT, "{name}: {most:.2e} > {LIMIT:.0e}");
        let found = bounds(&saliency.mask(&frame).unwrap()).unwrap().0;
        println!("{name}: {found:.2?}");
        assert!(
            found[0] >= around[0] && found[1] >= around[1] && found[2] <= around[2] && found[3] <= around[3],
            "{found:?}"
        );
    }
}

#[test]
fn a_scene_without_a_subject_has_an_empty_mask() {
    let saliency = Saliency::embedded(&Device::Cpu).unwrap();
    let flat = Frame { width: 50, height: 30, data: vec![120; 50 * 30 * 3] };
    let mask = saliency.mask(&flat).unwrap();
    assert_eq!((mask.width, mask.height, mask.coverage()), (50, 30, 0.0));
    assert_eq!(bounds(&mask), None);
}
