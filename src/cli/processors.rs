//! `processors`: the controls of attention that can be asked for by name.

use crate::attention::SiteKind;
use crate::processors::registry::Entry;
use crate::processors::when::kind_name;
use crate::processors::{COMMON, Parameter, list};
use crate::run::{Failure, print};
use serde_json::{Value, json};
use std::fmt::Write;

pub const EXAMPLES: &str = "\
Examples:
  vidgen processors
  vidgen processors --json | jq '.processors[] | select(.works) | .name'
  vidgen multi-prompt prompts/seasons.txt --attn-proc reweight:words=snow:0.5 -o less-snow.mp4";

/// Lists them, or with `json` prints them as one object.
pub fn run(json: bool) -> Result<(), Failure> {
    match json {
        true => print(&format!("{}\n", object())),
        false => print(&table()),
    }
}

/// The kinds of attention that the networks of CogVideoX and Toyland have.
const PRESENT: [SiteKind; 1] = [SiteKind::Joint];

fn works(entry: &Entry) -> bool {
    entry.sites.iter().any(|kind| PRESENT.contains(kind))
}

fn object() -> Value {
    let parameter = |p: &Parameter| json!({ "name": p.name, "default": p.default, "help": p.help });
    let entries: Vec<Value> = list()
        .iter()
        .map(|entry| {
            let parameters: Vec<Value> = entry.parameters.iter().chain(COMMON).map(parameter).collect();
            let sites: Vec<&str> = entry.sites.iter().map(|&kind| kind_name(kind)).collect();
            let works = works(entry);
            json!({ "name": entry.name, "sites": sites, "works": works, "help": entry.help, "parameters": parameters })
        })
        .collect();
    json!({ "processors": entries })
}

fn table() -> String {
    let mut text =
        String::from("Written as NAME:PARAMETER=VALUE,..; ranges are inclusive: kv-share:layers=25-29,steps=2-24\n");
    let mut line = |words: std::fmt::Arguments| {
        // writing to a string does not fail
        let _ = writeln!(text, "{words}");
    };
    let parameters = |line: &mut dyn FnMut(std::fmt::Arguments), parameters: &[Parameter]| {
        for Parameter { name, default, help } in parameters {
            let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
            line(format_args!("    {name:<10} {help}{default}"));
        }
    };
    let entry = |line: &mut dyn FnMut(std::fmt::Arguments), entry: &Entry| {
        let sites: Vec<&str> = entry.sites.iter().map(|&kind| kind_name(kind)).collect();
        line(format_args!("\n{:<12} {} (on {} attention)", entry.name, entry.help, sites.join(", ")));
        parameters(line, entry.parameters);
    };
    line(format_args!("\nOn every model there is now (CogVideoX and Toyland have joint attention):"));
    list().iter().filter(|known| works(known)).for_each(|known| entry(&mut line, known));
    line(format_args!("\nEach also has"));
    parameters(&mut line, COMMON);
    line(format_args!("\nOn kinds of attention that no model has yet, so refused by all of them:"));
    list().iter().filter(|known| !works(known)).for_each(|known| entry(&mut line, known));
    text
}
