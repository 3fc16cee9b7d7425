//! Which recipe a run follows: the one that was chosen, by its name or as a file of the user's, or else the one in `configs/`
//! that says most of the model. No name of a model decides: recipes say what a network must be like (`[for]`).

use super::entries::Recipe;
use crate::models::architecture::{Fact, RecipeKey};
use crate::words::unknown;
use anyhow::{Context, Error, Result, bail, ensure};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use toml::{Table, Value};

/// Names and texts of the recipes in `configs/`, in the order of their names (`build.rs` lists them).
const EMBEDDED: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/recipes.rs"));
/// The most bytes that are read of a recipe.
const MOST_BYTES: u64 = 1 << 16;
/// What the recipe of a user's file is called.
const OWN: &str = "own";

/// A recipe that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// One of `configs/`.
    Name(String),
    /// A file of the user's.
    File(PathBuf),
    /// What such a file says: records keep that, since the file may change.
    Text(String),
}

/// `toyland`, `mine.toml`, or several lines of TOML.
impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.contains('\n') {
            return Ok(Self::Text(text.to_owned()));
        }
        if text.to_ascii_lowercase().ends_with(".toml") || text.contains(std::path::is_separator) {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let names: Vec<&str> = EMBEDDED.iter().map(|(name, _)| *name).collect();
        ensure!(names.contains(&text.trim()), unknown("recipe", text.trim(), &names));
        Ok(Self::Name(text.trim().to_owned()))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Text(text) => f.write_str(text),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Choice {
    /// The choice without a file: with what the file says in its place.
    ///
    /// # Errors
    /// When it cannot be read, is no file of text, or is too long.
    pub fn settled(&self) -> Result<Self> {
        let Self::File(path) = self else { return Ok(self.clone()) };
        let shown = format!("--recipe {}", path.display());
        let file = std::fs::metadata(path).with_context(|| shown.clone())?;
        ensure!(file.is_file(), "{shown}: is not a file");
        ensure!(file.len() <= MOST_BYTES, "{shown}: {} bytes are too many for a recipe", file.len());
        let mut text = std::fs::read_to_string(path).with_context(|| shown.clone())?;
        text.push('\n');
        // its faults are the file's, not those of a run that goes on from a record
        let table: Table = text.parse().map_err(|error| Error::msg(one_line(&error)).context(shown.clone()))?;
        Recipe::of_table(base(&table)?).context(shown)?;
        Ok(Self::Text(text))
    }
}

/// A recipe that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    pub name: String,
    pub recipe: Recipe,
    /// What the user should know of it.
    pub warning: Option<String>,
}

/// A recipe of `configs/`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub name: &'static str,
    pub recipe: Recipe,
}

/// The recipes there are, read once: a batch asks for every job.
pub fn list() -> Result<&'static [Listed]> {
    static LISTED: OnceLock<Vec<Listed>> = OnceLock::new();
    if let Some(listed) = LISTED.get() {
        return Ok(listed);
    }
    let listed = EMBEDDED.iter().map(|&(name, text)| {
        let recipe = text.parse().map_err(Error::from).and_then(Recipe::of_table);
        Ok(Listed { name, recipe: recipe.with_context(|| format!("configs/{name}.toml"))? })
    });
    let listed = listed.collect::<Result<Vec<_>>>()?;
    Ok(LISTED.get_or_init(|| listed))
}

/// The recipe of a network. A file of the user's says what differs from the recipe that the network has by itself.
///
/// # Errors
/// Names that do not exist, faults of a file, recipes for another architecture, and networks that no recipe is for.
pub fn find(choice: Option<&Choice>, key: &RecipeKey) -> Result<Chosen> {
    let listed = list()?;
    let best = || {
        let fitting = listed.iter().filter(|listed| listed.recipe.fits.fits(key));
        let best = fitting.max_by_key(|listed| listed.recipe.fits.facts.len());
        best.with_context(|| format!("there is no recipe for {}: give one with --recipe FILE.toml", key.architecture))
    };
    let (name, mut recipe) = match choice {
        None => best().map(|listed| (listed.name, listed.recipe.clone()))?,
        Some(Choice::Name(name)) => {
            let names: Vec<&str> = listed.iter().map(|listed| listed.name).collect();
            let found = listed.iter().find(|listed| listed.name == name);
            found.map(|listed| (listed.name, listed.recipe.clone())).ok_or_else(|| unknown("recipe", name, &names))?
        }
        Some(Choice::File(_)) => return find(choice.map(Choice::settled).transpose()?.as_ref(), key),
        Some(Choice::Text(text)) => {
            let own: Table = text.parse().map_err(|error| Error::msg(one_line(&error)).context("the recipe"))?;
            let best = best()?;
            let text = EMBEDDED.iter().find(|(name, _)| best.name == *name);
            let mut table: Table = text.map_or("", |(_, text)| *text).parse()?;
            let controls = own.get("method").and_then(|method| method.get("ditctrl")?.get("attn_proc")).is_some();
            table.remove("for");
            lay(&mut table, own);
            let mut recipe = Recipe::of_table(table).context("the recipe")?;
            if !controls {
                // their steps count in a run of as many as the other recipe has
                recipe.method.ditctrl.attn_proc = best.recipe.controls(recipe.steps);
            }
            (OWN, recipe)
        }
    };
    let of = &recipe.fits;
    if !of.architecture.is_empty() && of.architecture != key.architecture {
        bail!("--recipe {name} is for {}, and this model is {}", of.architecture, key.architecture)
    }
    let warning = of.misfit(key).map(|misfit| format!("recipe {name} is for {misfit}"));
    let ditctrl = &mut recipe.method.ditctrl;
    // places among so many layers mean nothing among others
    if ditctrl.layers.is_some_and(|layers| key.facts.get("layers") != Some(&Fact::Number(layers))) {
        ditctrl.attn_proc.clear();
    }
    Ok(Chosen { name: name.to_owned(), recipe, warning })
}

/// What a user's file is laid over where no model is known yet: any recipe, to find the faults of the file.
fn base(own: &Table) -> Result<Table> {
    let mut table: Table = EMBEDDED.first().map_or("", |(_, text)| *text).parse()?;
    lay(&mut table, own.clone());
    Ok(table)
}

/// Puts the entries of a table in the place of those of another, in tables inside as well.
fn lay(table: &mut Table, own: Table) {
    if own.contains_key("attn_proc") {
        table.remove("layers"); // what the others were chosen for
    }
    for (name, value) in own {
        match (table.get_mut(&name), value) {
            (Some(Value::Table(inner)), Value::Table(own)) => lay(inner, own),
            (_, value) => {
                table.insert(name, value);
            }
        }
    }
}

/// A fault of TOML with its line, without the picture of it.
fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}
