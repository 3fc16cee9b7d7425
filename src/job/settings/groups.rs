//! How settings are declared: each one once, with its group. Everything that is done to several of them is done to groups.

/// A part of the settings that commands treat alike. What a command takes, leaves out or passes on are groups, never names,
/// so that a new setting is a field in one of them and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Whose weights.
    Model,
    /// What the denoiser is asked for, and how it gets there.
    Sampling,
    /// What is one video's own: its noise, size and length, and the video it goes on from.
    Video,
    /// How several windows make one video; a single one has no use for them.
    Windows,
    /// The subject that windows share.
    Subject,
    /// A second stage, which makes the frames anew in part.
    Enhance,
    /// The first chunk of a video of chunks, and what later ones are held to.
    Streaming,
    /// A subject that is put into the video, and where it is.
    Placed,
    /// How frames of an image model begin and move.
    Motion,
    /// What of a given video is changed, and how far.
    Footage,
    /// Pictures that a video of a text follows, and the networks that see them.
    Control,
    /// How the denoiser computes: controls of attention, its kernel, its dtype.
    Attention,
    /// Device and threads.
    Machine,
    /// How much memory there is. Tiles of the decoder follow from it.
    Memory,
    /// Where weights wait and encoded texts are kept. Says nothing about the frames.
    Storage,
    /// From latents to frames, and their rate.
    Decoding,
    /// From frames to a file.
    Encoding,
    /// Where a video goes, its record with it, and where what it is made from lies. Says nothing about the frames.
    Places,
    /// How a run goes: what it leaves behind, when it is saved, what is shown meanwhile. Says nothing about the frames.
    Run,
}

impl Group {
    /// Those that say nothing about the frames.
    pub const ASIDE: &[Self] = &[Self::Places, Self::Storage, Self::Run];
}

/// Declares the settings as `Group.name: Type`, with the attributes of the flag and of the key in files. The struct has an
/// `Option` for each, in this order; it is also the order of records, whose hashes name the directories of runs.
macro_rules! settings {
    ($($(#[$meta:meta])* $group:ident.$field:ident: $type:ty,)*) => {
        /// The settings of a run, each absent until someone says it.
        #[derive(Debug, Clone, Default, PartialEq, clap::Args, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            $($(#[$meta])* pub $field: Option<$type>,)*
        }

        impl Settings {
            /// Names of all settings, and their groups.
            const ALL: &[(&str, Group)] = &[$((stringify!($field), Group::$group)),*];

            /// Names of those that somebody said.
            pub fn said(&self) -> Vec<&'static str> {
                [$(self.$field.is_some().then_some(stringify!($field))),*].into_iter().flatten().collect()
            }

            fn retain(mut self, keep: impl Fn(&str, Group) -> bool) -> Self {
                $(if !keep(stringify!($field), Group::$group) {
                    self.$field = None;
                })*
                self
            }

            /// These settings, and where they say nothing those of `lower`.
            pub fn or(self, lower: Self) -> Self {
                // ways to say one thing stay together: a flag's width is not mixed with a file's size
                let said = self.said();
                let lower = lower.retain(|name, _| !others(name).any(|other| said.contains(&other)));
                Self { $($field: self.$field.or(lower.$field)),* }
            }
        }
    };
}

pub(super) use settings;
