//! `recipes`: what a run can follow where nobody says otherwise.

use super::table::headed;
use crate::models::architecture::Fact;
use crate::recipe::{Listed, list};
use crate::run::{Failure, print};
use serde_json::{Map, Value, json};

pub const EXAMPLES: &str = "\
Examples:
  vidgen recipes
  vidgen model info org/model    # the recipe that a model has by itself
  vidgen generate \"a red ball\" --recipe mine.toml -o ball.mp4

A recipe is chosen with --recipe NAME, or by what it is for: the one that says most of a model. A file of your own says what is \
different. See docs/recipes.md.";

/// Lists them, or with `json` prints them as one object.
pub fn run(json: bool) -> Result<(), Failure> {
    let recipes = list()?;
    if json {
        let recipes: Vec<Value> = recipes.iter().map(object).collect();
        return print(&format!("{}\n", json!({ "recipes": recipes })));
    }
    let head = ["recipe", "for", "about"].map(str::to_owned);
    let row = |listed: &Listed| [listed.name.to_owned(), listed.recipe.fits.to_string(), listed.recipe.about.clone()];
    print(&headed(&std::iter::once(head).chain(recipes.iter().map(row)).collect::<Vec<_>>()))
}

fn object(Listed { name, recipe }: &Listed) -> Value {
    let fact = |(name, fact): (&String, &Fact)| match fact {
        Fact::Flag(flag) => (name.clone(), json!(flag)),
        Fact::Number(number) => (name.clone(), json!(number)),
    };
    let facts: Map<String, Value> = recipe.fits.facts.iter().map(fact).collect();
    json!({ "name": name, "architecture": recipe.fits.architecture, "facts": facts, "about": recipe.about })
}
