//! `processors`: the controls of attention that can be asked for by name.

use super::table::{aligned_within, terminal, wrapped};
use crate::attention::SiteKind;
use crate::models::registry::FAMILIES;
use crate::processors::when::kind_name;
use crate::processors::{COMMON, Control, Parameter, list};
use crate::run::{Failure, print};
use serde_json::{Value, json};

pub const EXAMPLES: &str = "\
Examples:
  vidgen processors
  vidgen processors --json | jq '.processors[] | select(.works) | .name'
  vidgen multi-prompt prompts/seasons.txt --attn-proc reweight:words=snow:0.5 -o less-snow.mp4";

/// Lists them, or with `json` prints them as one object.
pub fn run(json: bool) -> Result<(), Failure> {
    if json { print(&format!("{}\n", object())) } else { print(&table(terminal())) }
}

/// The architectures on which a control works.
fn works_on(control: &Control) -> impl Iterator<Item = &'static str> {
    let fitting = FAMILIES.iter().filter(|family| family.sites.iter().any(|kind| control.sites.contains(kind)));
    fitting.map(|family| family.name)
}

fn works(control: &Control) -> bool {
    works_on(control).next().is_some()
}

fn names(kinds: &[SiteKind]) -> Vec<&'static str> {
    kinds.iter().map(|&kind| kind_name(kind)).collect()
}

fn object() -> Value {
    let parameter =
        |p: &Parameter| json!({ "name": p.name, "form": p.kind.form(), "default": p.default, "help": p.help });
    let control = |control: &Control| {
        let parameters: Vec<Value> = control.parameters.iter().chain(COMMON).map(parameter).collect();
        json!({
            "name": control.name,
            "sites": names(control.sites),
            "works": works(control),
            "works_on": works_on(control).collect::<Vec<_>>(),
            "help": control.help,
            "parameters": parameters,
        })
    };
    json!({ "processors": list().iter().map(|known| control(known)).collect::<Vec<_>>() })
}

/// The list within so many columns.
fn table(columns: usize) -> String {
    let parameters = |parameters: &[Parameter]| {
        let row = |Parameter { name, default, help, .. }: &Parameter| {
            let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
            [format!("  {name}"), format!("{help}{default}")]
        };
        parameters.iter().map(row).collect::<Vec<_>>()
    };
    let controls = |working: bool| {
        let control = |Control { name, help, sites, parameters: own, .. }: &Control| {
            let head = [(*name).to_owned(), format!("{help} (on {} attention)", names(sites).join(", "))];
            let rows: Vec<_> = [head].into_iter().chain(parameters(own)).collect();
            format!("\n{}", aligned_within(columns, &rows))
        };
        list().iter().filter(|known| works(known) == working).map(|known| control(known)).collect::<String>()
    };
    let have =
        FAMILIES.iter().map(|family| format!("{} has {} attention", family.name, names(family.sites).join(", ")));
    let have: Vec<String> = have.collect();
    let said = |text: &str| wrapped(columns, text);
    let none = controls(false);
    let later = match none.as_str() {
        "" => String::new(),
        _ => format!("\n{}{none}", said("On kinds of attention that no model has yet, so refused by all of them:")),
    };
    format!(
        "{}\n{}{}\n{}{}{later}",
        said("Written as NAME:PARAMETER=VALUE,..; ranges are inclusive: kv-share:layers=25-29,steps=2-24"),
        said(&format!("On the models there are ({}):", have.join("; "))),
        controls(true),
        said("Each also has"),
        aligned_within(columns, &parameters(COMMON)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_fits_a_narrow_terminal() {
        let wide = table(usize::MAX);
        assert!(wide.contains("\nkv-share  ") && wide.contains("Each also has\n  steps"), "{wide}");
        for columns in [40, 60, 80] {
            let text = table(columns);
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}: {text}");
            let words = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(words(&text), words(&wide), "nothing is cut at {columns}");
        }
    }
}
