//! What a run was asked for, complete: resolved again it is the same run. Records of runs carry it, so that a video can be
//! made again, continued or edited from the file alone.

use super::Command;
use super::control_values::ControlAsked;
use super::edit::Changes;
use super::given_values::Keyframe;
use super::settings::{Group, Settings};
use super::values::{AnchorAsked, Seed};
use crate::run::Manifest;
use crate::storyboard::{Scene, Storyboard};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// A command, its settings from all places together, and its scenes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub command: Command,
    pub settings: Settings,
    pub scenes: Vec<Scene>,
    /// How the video differs from the one that the rest describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<Changes>,
}

impl Request {
    /// The request for one of its videos: `seed` is settled, `output` is the path itself.
    pub(super) fn of_video(&self, seed: u64, output: String) -> Self {
        let settings =
            Settings { seed: Some(Seed::Fixed(seed)), num_videos: None, output: Some(output), ..self.settings.clone() };
        Self { settings, ..self.clone() }
    }

    /// What decides the frames and the bytes of the video, without where things go, where weights wait and what happens to
    /// files that are there already: the same for two runs that make the same video.
    pub fn of_frames(&self) -> Self {
        let settings = self.settings.clone().without(Group::ASIDE).without(&[Group::Memory]);
        Self { settings, ..self.clone() }
    }

    /// [`Request::of_frames`] without how the files that it names are called and where they stand: their contents say what
    /// they are (hashes of weights, of noise, of the video that it goes on from).
    pub fn of_content(&self) -> Self {
        let request = self.of_frames();
        let at = |keyframe: Keyframe| Keyframe { file: PathBuf::new(), ..keyframe };
        let unnamed = |asked: ControlAsked| ControlAsked { file: PathBuf::new(), ..asked };
        let settings = Settings {
            model: None,
            lora: None,
            init_noise: None,
            video: None,
            mask: None,
            subject_image: None,
            subject_mask: None,
            boxes: None,
            anchor: request.settings.anchor.map(|anchor| match anchor {
                AnchorAsked::Image(_) => AnchorAsked::Image(PathBuf::new()),
                other => other,
            }),
            first_frame: None,
            image: None,
            last_image: None,
            keyframe: request.settings.keyframe.map(|all| all.into_iter().map(at).collect()),
            control: request.settings.control.map(|all| all.into_iter().map(unnamed).collect()),
            control_model: None,
            ..request.settings
        };
        Self { settings, ..request }
    }

    /// Without what stands in files that may change: with their text.
    pub(super) fn settled(mut self) -> Result<Self> {
        self.settings.recipe = self.settings.recipe.map(|recipe| recipe.settled()).transpose()?;
        Ok(self)
    }

    /// The scenes, held to what every reader holds prompts to; what is seen in a given video needs no prompt.
    ///
    /// # Errors
    /// As [`Storyboard::checked`].
    pub fn checked_scenes(&self) -> Result<Vec<Scene>> {
        let seen = matches!(self.command, Command::Enhance | Command::Interpolate);
        let given = seen && self.scenes == [Scene::default()];
        if given { Ok(self.scenes.clone()) } else { Ok(Storyboard::checked(self.scenes.clone())?.scenes) }
    }

    /// As it stands in records: settings that nobody made are left out.
    pub fn json(&self) -> Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Some(Value::Object(settings)) = value.get_mut("settings") {
            settings.retain(|_, value| !value.is_null());
        }
        Ok(value)
    }

    /// Reads what [`Request::json`] wrote, from a file of unknown origin.
    pub fn from_json(value: &Value) -> Result<Self> {
        let mut request: Self = serde_path_to_error::deserialize(value).context("what was asked for cannot be read")?;
        request.scenes = request.checked_scenes()?;
        Ok(request)
    }

    /// The request in the record of a run.
    ///
    /// # Errors
    /// Records of other versions may have none, or one that this version does not understand.
    pub fn of_manifest(manifest: &Manifest) -> Result<Self> {
        let asked = &manifest.request;
        ensure!(!asked.is_null(), "the record (of vidgen {}) does not say what was asked for", manifest.version);
        Self::from_json(asked).with_context(|| format!("a record of vidgen {}", manifest.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(script: &str, settings: &str) -> Request {
        let settings = toml::from_str(settings).unwrap();
        let scenes =
            Storyboard::from_prompts(&[script.to_owned(), "a red ball in the snow".to_owned()]).unwrap().scenes;
        Request { command: Command::MultiPrompt, settings, scenes, edit: None }
    }

    #[test]
    fn a_request_survives_its_record() {
        let mut request = request(
            "a \"ball\"",
            "model = \"toyland\"\nguidance_scale = \"wave:6\"\nseed = 18446744073709551615\nsize = \"48x32\"\nduration = 1.5\n\
             fps = \"24000/1001\"\ntransition = \"blend\"\nattn_proc = [\"kv-share:layers=1-2,steps=0-3\"]\nsubject = \"a ball\"\n\
             eta = 0.25\nscheduler = \"dpmpp-2m-sde\"\nuncond = \"empty\"\nblend = \"paper\"\nparity = \"sat\"\ndevice = \"cpu\"\n\
             dtype = \"f32\"\nattention = \"math\"\noffload = \"disk\"\nmax_vram = \"12GB\"\nvae_tiling = \"on\"\ntext_cache = \"off\"\ncodec = \"h264\"\npix_fmt = \"yuv420p\"\noverwrite = true",
        );
        request.scenes[1].length = Some(crate::storyboard::Length::Seconds(0.1));
        request.scenes[1].transition.overlap = Some(3);
        request.scenes[1].transition.kind = Some(crate::storyboard::Transition::Fade(Some(3)));
        request.scenes[0].subject_tokens = vec![1, 2];
        request.edit = Some(Changes {
            swap: Some(vec!["ball=>a \"box\"".parse().unwrap(), "red=>".parse().unwrap()]),
            reweight: Some(vec!["snow:-0.5".parse().unwrap()]),
            side_by_side: true,
        });
        let value = request.json().unwrap();
        assert!(value["settings"].get("negative_prompt").is_none(), "{value}");
        let text: Value = serde_json::from_str(&value.to_string()).unwrap();
        assert_eq!(Request::from_json(&text).unwrap(), request);
    }

    /// A run's directory is named by a hash of its request: a number that is read a little off would be another run.
    #[test]
    fn numbers_are_read_back_to_the_last_digit() {
        let mut request = request("a ball", "seed = 7");
        for number in 1..2000 {
            let value = f64::from(number) / 7919.0;
            let settings = &mut request.settings;
            (settings.eta, settings.shift, settings.mask_threshold) =
                (Some(value), Some(1.0 / value), Some(value / 3.0));
            request.scenes[1].length = Some(crate::storyboard::Length::Seconds(value));
            let written = request.json().unwrap().to_string();
            let read = Request::from_json(&serde_json::from_str(&written).unwrap()).unwrap();
            assert_eq!(read, request);
            assert_eq!(read.json().unwrap().to_string(), written);
        }
        // records of before hold numbers
        let mut before = request.json().unwrap();
        (before["settings"]["eta"], before["scenes"][1]["length"]) = (0.25.into(), json!({ "seconds": 2 }));
        let read = Request::from_json(&before).unwrap();
        assert_eq!(read.settings.eta, Some(0.25));
        assert_eq!(read.scenes[1].length, Some(crate::storyboard::Length::Seconds(2.0)));
    }

    #[test]
    fn where_a_video_goes_decides_nothing_about_it() {
        let there = request(
            "a ball",
            "output = \"a.mp4\"\noverwrite = true\nseed = 7\nwork_dir = \"runs\"\nresume = true\nkeep = true\n\
             offload = \"disk\"\nmax_vram = \"1.5GB\"\ncheckpoint_every = 5\non_interrupt = \"decode\"",
        );
        let elsewhere = request("a ball", "output = \"b/\"\nseed = 7");
        assert_eq!(there.of_frames(), elsewhere.of_frames());
        assert_ne!(there.of_frames(), request("a ball", "seed = 8").of_frames());
    }

    #[test]
    fn what_a_file_is_called_decides_nothing_either() {
        let here = request("a ball", "seed = 7\nmodel = \"./m\"\ninit_noise = \"n.safetensors\"");
        let there = request("a ball", "seed = 7\nmodel = \"/data/m\"\ninit_noise = \"/n.safetensors\"");
        assert_eq!(here.of_content(), there.of_content());
        assert_ne!(here.of_content(), request("a ball", "seed = 8").of_content());
    }

    #[test]
    fn records_of_unknown_origin_are_checked() {
        let mut value = request("a ball", "seed = 7").json().unwrap();
        value["settings"]["stepz"] = 5.into();
        assert!(format!("{:#}", Request::from_json(&value).unwrap_err()).contains("stepz"));
        let mut value = request("a ball", "seed = 7").json().unwrap();
        value["scenes"][0]["prompt"] = "a\u{1b}[31m".into();
        assert!(format!("{:#}", Request::from_json(&value).unwrap_err()).contains("control character"));
        assert!(Request::from_json(&Value::Null).is_err());
    }
}
