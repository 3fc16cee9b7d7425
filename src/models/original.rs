//! Models as other programs keep them, in one file, seen as folders in diffusers' layout.

use serde_json::Value;
use std::collections::BTreeMap;

/// Shapes of the tensors of a file by their names.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A tensor of a file under the name that diffusers has for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Renamed {
    /// The part it belongs to.
    pub part: &'static str,
    pub name: String,
    /// Its name in the file.
    pub of: String,
    /// The first of its rows in the file's tensor and their number, where it is not the whole.
    pub rows: Option<(usize, usize)>,
    /// As many elements as the rows have.
    pub shape: Vec<usize>,
}

/// A file as a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Original {
    /// Configurations by their paths in the folder.
    pub files: BTreeMap<String, Value>,
    pub tensors: Vec<Renamed>,
}
