//! The tower of DINO against transformers' `ViTModel` (golden: `tests/reference/vit.py`).

use crate::common::{assert_close, golden, tiny};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use vidgen::models::vit::{ViT, ViTConfig};

#[test]
fn the_class_token_equals_the_reference() {
    let golden = golden("vit");
    let weights =
        golden.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("weights/")?.to_owned(), tensor.clone())));
    let vb = VarBuilder::from_tensors(weights.collect(), DType::F32, &Device::Cpu);
    let config = ViTConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        image_size: 20,
        patch_size: 4,
        ..ViTConfig::default()
    };
    let made = ViT::load(&config, &vb).unwrap().forward(&tiny::unit("tiny-vit/pixels", &[2, 3, 20, 20])).unwrap();
    assert_close("class token", &made, &golden["class"], 1e-5);
}
