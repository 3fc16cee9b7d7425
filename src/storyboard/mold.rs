//! Chain scripts of mold (`schema = "mold.chain.v1"`): `[chain]` with settings and a `[[stage]]` for each scene. Its `smooth`
//! transition, where a stage continues from the end of the one before, becomes `blend`.

use super::node::{Source, Table, Value};
use super::scenes::{check_count, prompt};
use super::{Length, Scene, Storyboard, Transition};
use anyhow::{Error, Result, anyhow};

const SCHEMA: &str = "mold.chain.v1";
/// Keys of `[chain]` and the settings they are.
const CHAIN: [(&str, &str); 6] = [
    ("width", "width"),
    ("height", "height"),
    ("fps", "fps"),
    ("seed", "seed"),
    ("steps", "steps"),
    ("guidance", "guidance_scale"),
];
/// Keys of `[chain]` that say nothing here: models of other families, and how its stages hang together.
const IDLE: [&str; 5] = ["model", "strength", "motion_tail_frames", "output_format", "enable_audio"];
const STAGE: [&str; 4] = ["prompt", "frames", "transition", "fade_frames"];
/// Keys of a stage that cannot be followed.
const BEYOND: [&str; 8] = [
    "source_image",
    "source_image_path",
    "source_image_b64",
    "negative_prompt",
    "seed_offset",
    "model",
    "loras",
    "references",
];

pub(super) fn read(source: Source, root: &Table) -> Result<Storyboard> {
    source.only("key of a chain script", root, &["schema", "chain", "stage"])?;
    if let Some(node) = root.get("schema") {
        let schema = source.word("schema", node)?;
        if schema != SCHEMA {
            let message = format!("schema {schema:?} with [[stage]] is not supported ({SCHEMA:?} is)");
            return Err(source.at(node.line, message));
        }
    }
    let mut storyboard = Storyboard::default();
    if let Some(node) = root.get("chain") {
        let chain = source.table("chain", node)?;
        let known: Vec<&str> = CHAIN.iter().map(|(key, _)| *key).chain(IDLE).collect();
        source.only("key of [chain]", chain, &known)?;
        for (entry, name) in chain.entries().iter().filter_map(|entry| Some((entry, setting(&entry.key)?))) {
            storyboard.settings.insert(name.to_owned(), source.setting(&entry.value)?);
            storyboard.places.insert(name.to_owned(), format!("{}:{}", source.name, entry.line));
        }
        let idle: Vec<&str> = IDLE.into_iter().filter(|key| chain.get(key).is_some()).collect();
        if !idle.is_empty() {
            storyboard.warnings.push(format!("{}: not read from [chain]: {}", source.name, idle.join(", ")));
        }
    }
    let none = || anyhow!("{}: no stage in it; write [[stage]] and a prompt for each", source.name);
    let node = root.get("stage").ok_or_else(none)?;
    let Value::List(list) = &node.value else {
        return Err(source.at(node.line, "a stage is a table: write [[stage]]"));
    };
    check_count(list.len()).map_err(|error| source.at(node.line, error))?;
    for node in list {
        let scene = scene(source, source.table("a stage", node)?, node.line, storyboard.scenes.is_empty())?;
        storyboard.scenes.push(scene);
    }
    if storyboard.scenes.is_empty() { Err(none()) } else { Ok(storyboard) }
}

fn setting(key: &str) -> Option<&'static str> {
    CHAIN.into_iter().find(|(known, _)| *known == key).map(|(_, name)| name)
}

fn scene(source: Source, stage: &Table, line: usize, first: bool) -> Result<Scene> {
    if let Some(entry) = stage.entries().iter().find(|entry| BEYOND.contains(&entry.key.as_str())) {
        let message = format!("{} of a stage cannot be followed: leave it out", entry.key);
        return Err(source.at(entry.line, message));
    }
    source.only("key of [[stage]]", stage, &STAGE)?;
    let text = stage.get("prompt").ok_or_else(|| source.at(line, "this stage has no prompt"))?;
    let mut scene = Scene {
        prompt: prompt(source.word("prompt", text)?).map_err(|error| source.at(text.line, error))?,
        length: stage.get("frames").map(|node| source.count("frames", node, 1)).transpose()?.map(Length::Frames),
        ..Scene::default()
    };
    let mut kind = Transition::Blend;
    if let Some(node) = stage.get("transition") {
        kind = match source.word("transition", node)? {
            "smooth" => Transition::Blend,
            "cut" => Transition::Cut,
            "fade" => Transition::Fade(None),
            other => {
                let error = crate::words::unknown("transition of a stage", other, &["smooth", "cut", "fade"]);
                return Err(source.at(node.line, error));
            }
        };
    }
    if let Some(node) = stage.get("fade_frames") {
        let frames = source.count("fade_frames", node, 1)?;
        if kind != Transition::Fade(None) {
            return Err(source.at(node.line, "fade_frames without transition = \"fade\": leave it out"));
        }
        kind = format!("fade:{frames}").parse().map_err(|error: Error| source.at(node.line, error))?;
    }
    // there is nothing before the first that it could follow
    scene.transition.kind = (!first).then_some(kind);
    Ok(scene)
}
