//! The recipes in `configs/` that are for these networks, and how they are found and chosen.

#![allow(clippy::disallowed_methods, reason = "reads the files of configs/")]

use super::config::TransformerConfig;
use crate::attention::SiteKind;
use crate::models::architecture::RecipeKey;
use crate::recipe::{Choice, Chosen, DitCtrl, Listed, Recipe, find, list};
use anyhow::Result;
use std::path::PathBuf;

fn network(name: &str) -> TransformerConfig {
    let two = TransformerConfig::default();
    let five = TransformerConfig { use_rotary_positional_embeddings: true, num_layers: 42, ..two.clone() };
    match name {
        "cogvideox-2b" => two,
        "cogvideox-5b" => five,
        "cogvideox1.5-5b" => TransformerConfig { patch_size_t: Some(2), sample_frames: 81, ..five },
        _ => TransformerConfig { num_layers: 6, num_attention_heads: 3, in_channels: 8, out_channels: 8, ..two },
    }
}

fn own(text: &str, network: &TransformerConfig) -> Result<Chosen> {
    find(Some(&Choice::Text(text.to_owned())), &network.recipe_key())
}

#[test]
fn every_recipe_is_read_and_reached() {
    let mut found = list().unwrap().to_vec();
    let own = |listed: &&Listed| listed.recipe.fits.architecture == network("").recipe_key().architecture;
    for Listed { name, recipe } in found.iter().filter(own) {
        let path = format!("{}/configs/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with('#'), "{name}: say where the numbers come from");
        assert!(!recipe.about.is_empty() && recipe.overlap(13) < 13, "{name}");
        let layers = recipe.method.ditctrl.layers.unwrap();
        for spec in &recipe.method.ditctrl.attn_proc {
            spec.check(recipe.steps, &[(SiteKind::Joint, layers)]).unwrap();
        }
        let key = network(name).recipe_key();
        assert_eq!(find(None, &key).unwrap().name, *name);
        let chosen = find(Some(&Choice::Name((*name).to_owned())), &key).unwrap();
        assert_eq!((&chosen.recipe, chosen.warning), (recipe, None));
    }
    // two that say as much of a network must not both be for it
    while let Some(Listed { name, recipe: Recipe { fits, .. } }) = found.pop() {
        for other in found.iter().filter(|other| other.recipe.fits.facts.len() == fits.facts.len()) {
            let apart = |(fact, value)| other.recipe.fits.facts.get(fact).is_some_and(|own| own != value);
            let of = &other.recipe.fits.architecture;
            assert!(*of != fits.architecture || fits.facts.iter().any(apart), "{name} or {}", other.name);
        }
    }
}

#[test]
fn a_network_of_another_depth_keeps_the_rest_of_its_kinds_recipe() {
    let of = |network: &TransformerConfig| find(None, &network.recipe_key()).unwrap().recipe;
    let two = of(&network("cogvideox-2b"));
    let shallow = of(&TransformerConfig { num_layers: 6, ..network("cogvideox-2b") });
    assert_eq!(two.method.ditctrl.attn_proc, ["kv-share:layers=25-29,steps=2-24".parse().unwrap()]);
    assert!(shallow.method.ditctrl.attn_proc.is_empty());
    let method = two.method.clone();
    assert_eq!(Recipe { method, ..shallow }, two);
    let newer = network("cogvideox1.5-5b");
    let recipe = of(&newer);
    assert_eq!((recipe.overlap(13), recipe.overlap(newer.window())), (9, 14)); // a window of 21
    assert_eq!(recipe.fps.to_string(), "16");
}

#[test]
fn controls_keep_their_part_of_the_run() {
    let recipe = find(None, &network("cogvideox-2b").recipe_key()).unwrap().recipe;
    let steps = |steps| recipe.controls(steps)[0].to_string();
    assert_eq!(steps(50), "kv-share:layers=25-29,steps=2-24");
    assert_eq!(steps(20), "kv-share:layers=25-29,steps=1-9");
}

#[test]
fn a_recipe_is_chosen_by_its_name() {
    let key = network("cogvideox-2b").recipe_key();
    let find = |name: &str| name.parse().and_then(|choice| find(Some(&choice), &key));
    let chosen = find("cogvideox-5b").unwrap();
    assert_eq!(chosen.warning.unwrap(), "recipe cogvideox-5b is for rotary = true, and this model has false");
    assert!(chosen.recipe.method.ditctrl.attn_proc.is_empty(), "they were chosen for 42 layers");
    let error = find("cogvideox-2").unwrap_err().to_string();
    assert!(error.contains("unknown recipe \"cogvideox-2\": did you mean cogvideox-2b?"), "{error}");
    assert!(find("none/mine.toml").unwrap_err().to_string().contains("--recipe none/mine.toml"));
    let unet = RecipeKey { architecture: "unet", ..key.clone() };
    let error = crate::recipe::find(None, &unet).unwrap_err().to_string();
    assert!(error.contains("there is no recipe for unet"), "{error}");
    let error = crate::recipe::find(Some(&"toyland".parse().unwrap()), &unet).unwrap_err().to_string();
    assert_eq!(error, "--recipe toyland is for cogvideox, and this model is unet");
}

#[test]
fn a_file_says_what_is_different() {
    let two = network("cogvideox-2b");
    let standard = find(None, &two.recipe_key()).unwrap().recipe;
    let chosen = own("steps = 7\n[method.ditctrl]\nhold = 1\n", &two).unwrap();
    assert_eq!((chosen.name.as_str(), chosen.recipe.steps), ("own", 7));
    // the controls that are not said act in the same part of the run
    let attn_proc = vec!["kv-share:layers=25-29,steps=0-3".parse().unwrap()];
    let ditctrl = DitCtrl { hold: 1, attn_proc, ..standard.method.ditctrl.clone() };
    assert_eq!(chosen.recipe.method.ditctrl, ditctrl);
    assert_eq!(chosen.recipe.preview, standard.preview);
    // controls of one's own are for the network at hand
    let shallow = TransformerConfig { num_layers: 6, ..two.clone() };
    let given = "[method.ditctrl]\nattn_proc = [\"kv-share:layers=4-5\"]\n";
    assert_eq!(own(given, &shallow).unwrap().recipe.method.ditctrl.attn_proc.len(), 1);
    let elsewhere = own("[for]\narchitecture = \"unet\"\n", &two).unwrap_err().to_string();
    assert!(elsewhere.contains("is for unet"), "{elsewhere}");
    let misfit = own("[for]\narchitecture = \"cogvideox\"\nlayer = 3\n", &two).unwrap().warning.unwrap();
    assert!(misfit.contains("layer = 3, and what is known of models is heads, latent_channels, layers"), "{misfit}");
}

#[test]
fn unknown_and_wrong_entries_are_refused() {
    let two = network("cogvideox-2b");
    for (text, words) in [
        ("step = 3\n", "step"),
        ("schedule = \"other\"\n", "schedule: unknown"),
        ("uncond = \"zero\"\n", "did you mean zeros?"),
        ("steps = 0\n", "steps = 0: give 1 to 1000"),
        ("eta = nan\n", "eta = NaN: give 0 to 1"),
        ("[method.ditctrl]\nhold = 99999\n", "more than 1000 windows"),
        ("[method.ditctrl]\nattn_proc = [\"kv-shar\"]\n", "did you mean kv-share?"),
        ("[method.other]\nx = 1\n", "unknown field `other`"),
        ("[for]\narchitecture = 3\n", "for"),
        ("steps = \n\n", "recipe"),
    ] {
        let error = format!("{:#}", own(text, &two).unwrap_err());
        assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn files_of_strangers_are_read_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let settled = |path: PathBuf| Choice::File(path).settled().map_err(|error| format!("{error:#}"));
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, "steps = 4").unwrap();
    let kept = settled(path.clone()).unwrap();
    assert_eq!(kept, Choice::Text("steps = 4\n".to_owned()));
    assert_eq!(kept.to_string().parse::<Choice>().unwrap(), kept);
    assert!(settled(folder.path().to_owned()).unwrap_err().contains("is not a file"));
    std::fs::write(&path, "#".repeat(1 << 17)).unwrap();
    assert!(settled(path.clone()).unwrap_err().contains("too many for a recipe"));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(settled(path.clone()).unwrap_err().contains("mine.toml"));
    std::fs::write(&path, "steps = \"many\"").unwrap();
    assert!(settled(path).unwrap_err().contains("mine.toml: steps"));
}
