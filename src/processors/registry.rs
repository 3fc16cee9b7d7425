//! The controls that can be asked for by name, with their parameters: what `vidgen processors` lists and what
//! [`super::spec`] reads.

use crate::attention::SiteKind;

/// A parameter of a control.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    /// As it would be written; empty where there is none and the parameter must be given or its function stays off.
    pub default: &'static str,
    pub help: &'static str,
}

/// A control that can be asked for by name.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    /// The kinds of attention it works on.
    pub sites: &'static [SiteKind],
    pub help: &'static str,
    /// Those of its own; every control has [`COMMON`] as well.
    pub parameters: &'static [Parameter],
}

/// The parameters all controls have.
pub const COMMON: &[Parameter] = &[
    Parameter { name: "steps", default: "all", help: "denoising steps it acts at, from 0, as 2-24 or 2,5,7-9" },
    Parameter { name: "layers", default: "all", help: "attention layers it acts in, from 0" },
];

pub(super) static ENTRIES: &[Entry] = &[
    Entry {
        name: "kv-share",
        sites: &[SiteKind::Joint, SiteKind::SelfSpatial],
        help: "a window attends to the keys and values of the window before it (edit: the target to the source's)",
        parameters: &[
            Parameter {
                name: "subject",
                default: "",
                help: "words that part foreground from background: mask-guided sharing",
            },
            Parameter {
                name: "threshold",
                default: "0.3",
                help: "share of a frame's peak from which a place is foreground",
            },
        ],
    },
    Entry {
        name: "word-swap",
        sites: &[SiteKind::Cross],
        help: "the target uses the source's attention map on its own values (Prompt-to-Prompt)",
        parameters: &[],
    },
    Entry {
        name: "cross-frame",
        sites: &[SiteKind::SelfSpatial],
        help: "every frame attends to the keys and values of one frame (Text2Video-Zero)",
        parameters: &[Parameter { name: "frame", default: "first", help: "first or previous" }],
    },
    Entry {
        name: "window",
        sites: &[SiteKind::Temporal],
        help: "frames attend inside overlapping windows that are fused (FreeNoise)",
        parameters: &[
            Parameter { name: "size", default: "16", help: "frames of a window" },
            Parameter { name: "stride", default: "4", help: "frames from one window to the next" },
        ],
    },
    Entry {
        name: "reweight",
        sites: &[SiteKind::Joint, SiteKind::Cross],
        help: "scales what words contribute after the softmax; 0 removes, 1 changes nothing; see also vidgen edit",
        parameters: &[Parameter {
            name: "words",
            default: "",
            help: "WORD:FACTOR, several between commas: night:0.5,moon:2",
        }],
    },
    Entry {
        name: "attn-map",
        sites: &[SiteKind::Joint, SiteKind::Cross],
        help: "keeps attention maps, the mean over heads and the layers up to each of those named; by vidgen attn-map",
        parameters: &[
            Parameter { name: "words", default: "", help: "words whose maps to keep, between commas" },
            Parameter { name: "views", default: "", help: "text, frame:F and place:ROW:COLUMN, between commas" },
        ],
    },
];

/// The controls there are.
pub fn list() -> &'static [Entry] {
    ENTRIES
}
