//! Text-to-video folders as the rest of the program sees them: `TextToVideoSDPipeline` of diffusers, ModelScope's model
//! (arXiv 2308.06571) and those trained from it (ZeroScope).

use super::architecture::{Folder, SCHEDULERS, native_sides};
use crate::attention::SiteKind;
use crate::models::architecture::{Architecture, Configurations, Family, PartClass, Role, config};
use crate::models::unet::{UNet3DConfig, UNetConfig};
use anyhow::{Result, ensure};
use std::sync::Arc;

pub static TEXT_TO_VIDEO: Family = Family {
    name: "text-to-video",
    stem: "TextToVideoSD",
    pipelines: &["TextToVideoSDPipeline", "VideoToVideoSDPipeline"],
    remedies: &[],
    parts: &[
        PartClass { name: "tokenizer", role: Role::Tokenizer, classes: &[], required: true },
        PartClass { name: "text_encoder", role: Role::TextEncoder, classes: &["clip_text_model"], required: true },
        PartClass { name: "unet", role: Role::Denoiser, classes: &["UNet3DConditionModel"], required: true },
        PartClass { name: "scheduler", role: Role::Scheduler, classes: &[], required: true },
        PartClass { name: "vae", role: Role::Autoencoder, classes: &["AutoencoderKL"], required: true },
    ],
    schedulers: SCHEDULERS,
    sites: &[SiteKind::SelfSpatial, SiteKind::Cross, SiteKind::Temporal],
    native: |configurations| native_sides(configurations, CLIP),
    read,
};

/// Frames of a clip and their rate, where nobody asks for others: ModelScope's.
pub(super) const CLIP: (usize, u32) = (16, 8);

fn read(configurations: &Configurations) -> Result<Arc<dyn Architecture>> {
    let unet = planar(&config(configurations, "unet/config.json")?)?;
    Ok(Arc::new(Folder::read(&TEXT_TO_VIDEO, unet, CLIP, configurations)?))
}

/// The network that takes nothing but noisy latents, of `unet/config.json`.
///
/// # Errors
/// Those of [`UNet3DConfig::planar`], and a network that takes other channels than it makes.
pub(super) fn planar(unet: &UNet3DConfig) -> Result<UNetConfig> {
    let planar = unet.planar("unet")?;
    ensure!(
        planar.in_channels == planar.out_channels,
        "unet/config.json: in_channels is {}; a text-to-video model takes the {} latent channels it makes",
        planar.in_channels,
        planar.out_channels
    );
    Ok(planar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::LatentTime;
    use crate::models::architecture::{Fact, LayerShape, Native, Sites};
    use anyhow::Context;
    use serde_json::{Value, json};

    fn folder(changes: &[(&str, &str, Value)]) -> Result<Arc<dyn Architecture>> {
        let levels = |name: &'static str, count: usize| vec![name; count];
        let mut files = json!({
            "model_index.json": {"_class_name": "TextToVideoSDPipeline"},
            "unet/config.json": {"sample_size": 32},
            "vae/config.json": {
                "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 512,
                "down_block_types": levels("DownEncoderBlock2D", 4), "up_block_types": levels("UpDecoderBlock2D", 4)
            },
            "text_encoder/config.json": {
                "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
                "hidden_act": "gelu"
            },
            "tokenizer/tokenizer_config.json": {"model_max_length": 77}
        });
        for (file, key, value) in changes {
            files[*file][*key] = value.clone();
        }
        read(&|path: &str| files.get(path).cloned().with_context(|| format!("{path}: no such file")))
    }

    #[test]
    fn the_published_form_is_described() {
        let architecture = folder(&[]).unwrap();
        let geometry = architecture.geometry();
        assert_eq!((geometry.unit(), geometry.channels, geometry.time), (8, 4, LatentTime::PER_FRAME));
        assert_eq!(geometry.native, Native { width: 256, height: 256, frames: 16, fps: 8 });
        let temporal = Sites { kind: SiteKind::Temporal, layers: 34, heads: 5, head_dim: 64 };
        assert_eq!((architecture.sites()[2], architecture.main_sites().layers), (temporal, 16));
        let layers = architecture.layers(SiteKind::Temporal, 16, (32, 32));
        assert_eq!(layers[0], LayerShape { channels: 512, heads: 8, grid: (16, 32, 32) });
        assert_eq!((layers.len(), architecture.layers(SiteKind::Cross, 16, (32, 32)).len()), (34, 16));
        // diffusers' count of the parameters is 1.41 G, most of which every position of a level meets
        let work = architecture.row_work(16, (32, 32));
        let sum = work.linear.small + work.linear.wide + work.attention;
        assert!((1.5e12..4.0e12).contains(&sum), "{sum:e}");
    }

    #[test]
    fn recipes_follow_the_size() {
        use crate::recipe::find;
        for (sample, name, window) in [(json!(32), "modelscope", 16), (json!([40, 72]), "zeroscope", 24)] {
            let architecture = folder(&[("unet/config.json", "sample_size", sample)]).unwrap();
            let found = find(None, &architecture.recipe_key()).unwrap();
            assert_eq!((found.name.as_str(), found.recipe.steps, found.recipe.scheduler), (name, 50, None));
            assert_eq!(found.recipe.method.freenoise.unwrap().window, window);
            assert_eq!(architecture.recipe_key().facts["layers"], Fact::Number(16));
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        for (file, key, value, word) in [
            ("unet/config.json", "attention_head_dim", json!(48), "attention_head_dim is 48"),
            ("unet/config.json", "num_attention_heads", json!(8), "num_attention_heads is 8"),
            ("unet/config.json", "attention_head_dim", json!([64, 64, 64, 64]), "attention_head_dim"),
            ("unet/config.json", "in_channels", json!(9), "in_channels is 9"),
            ("unet/config.json", "cross_attention_dim", json!(768), "1024 values"),
            ("unet/config.json", "block_out_channels", json!([320, 640]), "down_block_types has 4 entries"),
            ("vae/config.json", "latent_channels", json!(8), "not of one model"),
            ("text_encoder/config.json", "hidden_act", json!("relu"), "hidden_act"),
        ] {
            let error = format!("{:#}", folder(&[(file, key, value)]).unwrap_err());
            // behind the line stands a backtrace, where one is asked for
            assert!(error.lines().next().is_some_and(|line| line.contains(word)), "{word}: {error}");
        }
    }
}
