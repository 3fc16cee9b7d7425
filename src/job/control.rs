//! Pictures that a video follows, and the networks that see them (ControlNet, arXiv 2302.05543).

use super::control_values::{CannyThresholds, ControlAsked, ControlKind, ControlModelAsked};
use super::footage::{Footage, resampled};
use super::settings::{Group, Settings};
use super::source_video::SourceFile;
use crate::models::Architecture;
use crate::models::architecture::{ControlArchitecture, OtherTask, Role};
use crate::run::{Code, Failure, WithCode};
use crate::weights::{ModelFolder, NetworkFolder, Part};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::sync::Arc;

/// A network that sees pictures.
#[derive(Debug, Clone)]
pub struct ControlModel {
    /// What it was opened by.
    pub name: String,
    pub part: Part,
    pub architecture: Arc<dyn ControlArchitecture>,
}

/// Pictures that a video follows.
#[derive(Debug, Clone)]
pub struct ControlInput {
    pub kind: ControlKind,
    /// One frame for each of the video, or one for all.
    pub footage: Footage,
    pub weight: f64,
    /// Of [`ControlKind::Canny`].
    pub canny: CannyThresholds,
    pub model: ControlModel,
}

impl ControlInput {
    /// Values of a pixel that are kept: edges are alike in all channels.
    pub fn planes(&self) -> usize {
        if self.kind == ControlKind::Canny { 1 } else { 3 }
    }
}

/// A model, and what its configurations say.
type Model<'a> = (&'a ModelFolder, &'a dyn Architecture);

/// Controls and their files, before anything is known of the model.
#[derive(Debug, Clone, Default)]
pub struct ControlFiles(Vec<(ControlAsked, SourceFile)>);

impl ControlFiles {
    /// What the settings name, read to their ends.
    ///
    /// # Errors
    /// Files that cannot be read, and settings of controls where there is none.
    pub fn read(settings: &Settings) -> Result<Self, Failure> {
        let asked = settings.control.as_deref().unwrap_or_default();
        if asked.is_empty() {
            return check_absent(settings).code(Code::Usage).map(|()| Self::default());
        }
        let canny = asked.iter().any(|asked| asked.kind == ControlKind::Canny);
        if settings.canny.is_some() && !canny {
            let message = "--canny has no effect without --control canny:FILE: leave it out";
            return Err(Failure::message(Code::Usage, message));
        }
        let read = |asked: &ControlAsked| Ok((asked.clone(), SourceFile::frames(&asked.file)?));
        Ok(Self(asked.iter().map(read).collect::<Result<_>>().context("--control").code(Code::Usage)?))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The controls of a model, and the settings with the size, the rate and the number of their frames. Warnings are of what is
    /// lost, and of pictures of other sizes.
    ///
    /// # Errors
    /// Files of other numbers of frames than the first, and controls without a network that fits the model.
    pub fn resolve(
        &self,
        settings: &Settings,
        model: Model,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<ControlInput>, Settings)> {
        let models = models(&self.0, settings, model)?;
        // pictures that stand for all frames say nothing of time
        let (base_asked, base) = self.0.iter().find(|(_, file)| file.frames > 1).unwrap_or(&self.0[0]);
        let latent = model.1.geometry();
        let (footage, of_base) = if base.frames > 1 {
            Footage::new(base, settings, latent, warnings)?
        } else {
            let timed = [("start", settings.start), ("end", settings.end)];
            if let Some((flag, _)) = timed.iter().find(|(_, at)| at.is_some()) {
                let shown = base_asked.file.display();
                bail!("--{flag} has no effect with --control {shown}, which is one picture: leave it out")
            }
            (Footage::picture(base), Footage::of_picture(base, settings, latent))
        };
        let mut inputs = Vec::with_capacity(self.0.len());
        for ((asked, file), model) in self.0.iter().zip(models) {
            if base.frames == 1 || !std::ptr::eq(file, base) {
                warnings.extend(file.lost.iter().cloned());
                warnings.extend(of_base.size.and_then(|size| resampled(file, size, settings)));
            }
            let own = if std::ptr::eq(file, base) {
                footage.clone()
            } else if file.frames == 1 {
                Footage::picture(file)
            } else {
                let own = Footage::beside(file, settings)?;
                let (found, wanted) = (own.frames.len(), footage.frames.len());
                ensure!(
                    found == wanted,
                    "--control {}: {found} frames, and {} has {wanted}: give --frames {}, or files of as many",
                    asked.file.display(),
                    base_asked.file.display(),
                    found.min(wanted)
                );
                own
            };
            let canny = settings.canny.unwrap_or_default();
            inputs.push(ControlInput { kind: asked.kind, footage: own, weight: asked.weight, canny, model });
        }
        Ok((inputs, of_base))
    }
}

/// Refuses settings of controls where there is none.
fn check_absent(settings: &Settings) -> Result<()> {
    match settings.clone().only(&[Group::Control]).said().iter().find(|name| **name != "control") {
        None => Ok(()),
        Some(name) => {
            bail!("--{} has no effect without --control KIND:FILE: add it, or leave this out", name.replace('_', "-"))
        }
    }
}

/// The network of each control.
fn models(
    files: &[(ControlAsked, SourceFile)],
    settings: &Settings,
    (folder, architecture): Model,
) -> Result<Vec<ControlModel>> {
    let family = architecture.family();
    ensure!(
        family.parts.iter().any(|part| part.role == Role::ControlNet),
        "--control: {} takes no control model: use an image model, as --model toyland-image, which is inside",
        folder.place()
    );
    let given = settings.control_model.as_deref().unwrap_or_default();
    let kinds: Vec<ControlKind> = files.iter().map(|(asked, _)| asked.kind).collect();
    let one = kinds.iter().all(|kind| *kind == kinds[0]);
    for (index, asked) in given.iter().enumerate() {
        match asked.kind {
            None => ensure!(one, "--control-model {asked}: say of which control it is, as {}={asked}", kinds[0]),
            Some(kind) => {
                ensure!(
                    kinds.contains(&kind),
                    "--control-model {asked}: there is no --control {kind}:FILE: leave it out"
                );
            }
        }
        let same = |other: &ControlModelAsked| other.kind == asked.kind || asked.kind.is_none() || other.kind.is_none();
        ensure!(!given[..index].iter().any(same), "--control-model {asked}: a control has one model: leave out one");
    }
    let offline = settings.offline.unwrap_or(false);
    let mut opened: Vec<(String, ControlModel)> = Vec::new();
    let mut models = Vec::with_capacity(files.len());
    for kind in kinds {
        let asked = given.iter().find(|asked| asked.kind.is_none_or(|of| of == kind));
        let name = asked.map_or_else(String::new, |asked| asked.model.clone());
        let known = opened.iter().find(|(known, _)| *known == name);
        let model = match (known, asked) {
            (Some((_, model)), _) => model.clone(),
            (None, Some(asked)) => {
                let network = NetworkFolder::open(&asked.model, "ControlNetModel", offline);
                let network = network.context("--control-model").code(Code::Model)?;
                model(network.name().to_owned(), network.part().clone(), architecture)?
            }
            (None, None) => own_model(kind, (folder, architecture))?,
        };
        opened.push((name, model.clone()));
        models.push(model);
    }
    Ok(models)
}

/// The network in the model's own folder.
fn own_model(kind: ControlKind, (folder, architecture): Model) -> Result<ControlModel> {
    let name = architecture.part(Role::ControlNet);
    ensure!(
        folder.has(&format!("{name}/config.json")),
        "--control {kind}: {} has no control model of its own: give --control-model {kind}=DIR, a folder of ControlNetModel",
        folder.place()
    );
    model(format!("{}/{name}", folder.name()), folder.part(name).code(Code::Model)?, architecture)
}

fn model(name: String, part: Part, of: &dyn Architecture) -> Result<ControlModel> {
    let place = part.config_place();
    let config: Value = part.config().code(Code::Model)?;
    let found = of.control(config).with_context(|| place);
    let fits = !found.as_ref().is_err_and(|error| error.chain().any(|reason| reason.is::<OtherTask>()));
    let architecture = if fits { found.code(Code::Model)? } else { found? };
    Ok(ControlModel { name, part, architecture })
}
