//! The kinds of models that the program runs, one line each.

use super::architecture::Family;
use super::original::{Original, Shapes};
use super::{cogvideox, sd, stiv};
use anyhow::Result;

/// All kinds of models that the program runs.
pub static FAMILIES: &[&Family] =
    &[&cogvideox::FAMILY, &sd::FAMILY, &sd::TEXT_TO_VIDEO, &sd::STREAMING, &sd::SUBJECT, &stiv::FAMILY];

/// The kind of a pipeline class.
pub fn family(pipeline: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|family| family.pipelines.contains(&pipeline))
}

/// A model in one file of another program's names as a folder; none of a file in no layout that is known.
///
/// # Errors
/// Models of another form, and files that lack something.
pub fn original(shapes: &Shapes) -> Result<Option<Original>> {
    sd::original(shapes)
}

/// One network of a class in one file of another program's names as a folder; none of a file in no layout that is known.
///
/// # Errors
/// Networks of another form, and files that lack something.
pub fn original_network(class: &str, shapes: &Shapes) -> Result<Option<Original>> {
    if class == "ControlNetModel" { sd::original_control(shapes) } else { Ok(None) }
}

/// Whether a pipeline class is one that this program runs, or one that it has advice about.
pub fn is_near(pipeline: &str) -> bool {
    family(pipeline).is_some() || !remedy(pipeline).is_empty()
}

/// The kind of whose networks a pipeline of this class is made, whether this program runs that pipeline or not.
pub fn akin(pipeline: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|family| pipeline.starts_with(family.stem))
}

/// What to do about a pipeline class that is of no kind here, as the end of a message; nothing where nothing is known.
pub fn remedy(pipeline: &str) -> &'static str {
    let known = FAMILIES.iter().flat_map(|family| family.remedies);
    known.filter(|(word, _)| pipeline.contains(word)).map(|(_, remedy)| *remedy).next().unwrap_or_default()
}
