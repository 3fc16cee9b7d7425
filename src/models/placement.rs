//! A subject that is put into a video (DreamVideo-2, arXiv 2410.13830), as the rest of the program sees it: attention to the subject's features, and
//! how it is weighed by where the subject is to be.

use crate::attention::SiteKind;
use crate::nn::sdpa::Sdpa;
use candle_core::{Result, Tensor, bail};
use serde::Deserialize;

/// The `config.json` of `reference_attention`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// How much of the subject there is outside its boxes.
    pub outside_weight: f64,
    pub mask_rule: MaskRule,
}

/// How a grid's mask follows from a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskRule {
    /// Cells that the box covers by half or more, and the one of its centre.
    Coverage,
    /// The mask in pixels, looked up at the first pixel of each cell.
    Nearest,
}

impl Default for ReferenceConfig {
    fn default() -> Self {
        Self { class_name: "ReferenceAttention".into(), outside_weight: 0.75, mask_rule: MaskRule::Coverage }
    }
}

impl ReferenceConfig {
    /// # Errors
    /// Another class, and a weight that no mask has.
    pub fn check(&self) -> Result<()> {
        if self.class_name != "ReferenceAttention" {
            bail!(
                "reference_attention config: _class_name is {:?}; only ReferenceAttention is supported",
                self.class_name
            )
        }
        if !(0.0..=1.0).contains(&self.outside_weight) {
            bail!("reference_attention config: outside_weight is {}; it must lie between 0 and 1", self.outside_weight)
        }
        Ok(())
    }
}

/// Keys and values `[1, N, n, d]` of the subject's tokens in one layer.
#[derive(Debug, Clone)]
pub struct SubjectKeys {
    pub k: Tensor,
    pub v: Tensor,
}

/// Attention to a subject, behind both attentions of each place of a network.
pub trait SubjectAttention: Send + Sync {
    /// Places of attention.
    fn layers(&self) -> usize;

    /// Keys and values of what `layer` gives of the subject, `[1, n, C]` behind its attention of this kind.
    ///
    /// # Errors
    /// Layers and kinds that it is not behind.
    fn keys(&self, layer: usize, kind: SiteKind, subject: &Tensor) -> Result<SubjectKeys>;

    /// What `layer`'s `u` `[F, n, C]` finds in the subject, in the shape of `u`.
    ///
    /// # Errors
    /// As [`SubjectAttention::keys`].
    fn find(&self, layer: usize, kind: SiteKind, u: &Tensor, keys: &SubjectKeys, kernel: &Sdpa) -> Result<Tensor>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_rules_that_no_mask_has_are_refused() {
        let reference = |changes: &str| serde_json::from_str::<ReferenceConfig>(&format!("{{{changes}}}"));
        assert_eq!(reference("").unwrap(), ReferenceConfig::default());
        assert!(reference(r#""outside_weight": 1.5"#).unwrap().check().unwrap_err().to_string().contains("1.5"));
        assert!(reference(r#""mask_rule": "bilinear""#).unwrap_err().to_string().contains("coverage"));
    }
}
