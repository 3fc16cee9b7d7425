//! The header of a safetensors file, read as hostile input.
//!
//! Format: 8 bytes with the header's length (little endian), the header (JSON: name -> dtype, shape, data_offsets), the data.
//! The `safetensors` crate reads the same; this reader differs in what it says when a file is wrong (which tensor, which
//! number, what to do), in refusing a name that stands twice, and in bounding every allocation by the size of the header.

use super::error::{Result, refuse};
use safetensors::Dtype;
use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// Longest header that is read, the limit of the format's reference implementation.
pub(super) const HEADER_LIMIT: u64 = 100_000_000;
/// Most dimensions of a tensor; convolutions over time have five.
pub(super) const RANK_LIMIT: usize = 8;
const LENGTH_BYTES: usize = 8;

/// What a safetensors file holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    /// In the order of the data.
    pub entries: Vec<Entry>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Byte range in the file.
    pub range: Range<usize>,
}

impl Entry {
    /// Number of elements; the header's check has shown that it does not overflow.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

impl Header {
    /// Reads and checks the header of a whole file. Errors do not name the file: the caller does.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
            refuse!("{}", not_safetensors(file, "it is shorter than a safetensors header"));
        };
        let length = u64::from_le_bytes(*length);
        if length > HEADER_LIMIT || length > rest.len() as u64 {
            let reason = if length > HEADER_LIMIT {
                format!("it announces a header of {length} bytes, the limit is {HEADER_LIMIT}")
            } else {
                format!("it announces a header of {length} bytes, {} follow", rest.len())
            };
            refuse!("{}", not_safetensors(file, &reason));
        }
        // the comparison above holds it below the length of a slice
        let (header, data) = rest.split_at(length as usize);
        Self::read(header, data.len())
    }

    /// The same of the beginning of a file of `size` bytes, as far as [`Header::end`] says.
    #[cfg(feature = "hub")]
    pub fn parse_head(head: &[u8], size: u64) -> Result<Self> {
        match Self::end(head) {
            Some(end) if end <= head.len() as u64 && end <= size => {
                let data = usize::try_from(size - end).unwrap_or(usize::MAX);
                Self::read(&head[LENGTH_BYTES..end as usize], data)
            }
            _ => Self::parse(head), // says what is wrong
        }
    }

    /// Where the header of a file ends that begins so; none of what is no safetensors file.
    #[cfg(feature = "hub")]
    pub fn end(head: &[u8]) -> Option<u64> {
        let length = u64::from_le_bytes(*head.first_chunk::<LENGTH_BYTES>()?);
        (length <= HEADER_LIMIT).then_some(LENGTH_BYTES as u64 + length)
    }

    fn read(header: &[u8], data_len: usize) -> Result<Self> {
        let raw: RawHeader = match serde_json::from_slice(header) {
            Ok(raw) => raw,
            Err(error) => refuse!("the safetensors header is malformed ({error}); download the file again"),
        };
        Self::check(raw, LENGTH_BYTES + header.len(), data_len)
    }

    /// Offsets must tile the data: no hole, no overlap, nothing left over.
    fn check(raw: RawHeader, data_start: usize, data_len: usize) -> Result<Self> {
        let mut names = HashSet::with_capacity(raw.0.len());
        for (name, _) in &raw.0 {
            if !names.insert(name.as_str()) {
                refuse!("tensor {name:?} stands twice in the header; the file was written wrongly, export it again");
            }
        }
        let mut raw = raw.0;
        raw.sort_by_key(|(_, tensor)| tensor.data_offsets);
        // the end of the data as the header sees it decides between truncated and malformed
        if let Some((name, tensor)) = raw.iter().max_by_key(|(_, tensor)| tensor.data_offsets.1)
            && tensor.data_offsets.1 > data_len as u64
        {
            refuse!(
                "truncated: tensor {name:?} ends at byte {} of the data, the file has {data_len}; download the file again",
                tensor.data_offsets.1
            );
        }
        let mut end = 0;
        let mut entries = Vec::with_capacity(raw.len());
        for (name, tensor) in raw {
            let (from, to) = tensor.data_offsets;
            let RawTensor { dtype, shape, .. } = tensor;
            if to < from || from != end {
                let what = if from < end { "overlaps the tensor before it" } else { "leaves a hole before it" };
                let what = if to < from { "ends before it begins" } else { what };
                refuse!(
                    "tensor {name:?} {what} (data offsets {from} to {to}, expected to begin at {end}); export the file again"
                );
            }
            let bits = shape.0.iter().try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
            if bits.is_none_or(|bits| bits % 8 != 0 || (bits / 8) as u64 != to - from) {
                refuse!(
                    "tensor {name:?} has shape {:?} of {dtype}, which does not take its {} bytes; export the file again",
                    shape.0,
                    to - from
                );
            }
            end = to;
            let range = data_start + from as usize..data_start + to as usize; // both are at most data_len
            entries.push(Entry { name, dtype, shape: shape.0, range });
        }
        if end != data_len as u64 {
            refuse!("the data is {data_len} bytes long, its tensors take {end}; download the file again");
        }
        Ok(Self { entries })
    }
}

/// Says what a file is that does not begin like safetensors; the usual cases have their own remedy.
fn not_safetensors(file: &[u8], reason: &str) -> String {
    const PICKLES: [&[u8]; 5] = [b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"];
    let start = file.trim_ascii_start();
    if file.is_empty() {
        "the file is empty; download it again".into()
    } else if start.starts_with(b"version https://git-lfs") {
        "this is a Git LFS pointer, not the weights; run `git lfs pull` in the folder".into()
    } else if start.starts_with(b"<") {
        "this is a web page, not the weights; download the file again".into()
    } else if PICKLES.iter().any(|magic| file.starts_with(magic)) {
        "this is a pickle, which can run code and is never opened; `vidgen model convert` makes safetensors of it"
            .into()
    } else {
        format!("not a safetensors file, or a truncated one: {reason}; download the file again")
    }
}

/// The header as it stands in the file, names in order, repeated ones kept.
struct RawHeader(Vec<(String, RawTensor)>);

#[derive(serde::Deserialize)]
struct RawTensor {
    #[serde(deserialize_with = "dtype")]
    dtype: Dtype,
    shape: Dims,
    data_offsets: (u64, u64),
}

struct Dims(Vec<usize>);

fn dtype<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Dtype, D::Error> {
    let name = String::deserialize(deserializer)?;
    Dtype::deserialize(StrDeserializer::<serde::de::value::Error>::new(&name))
        .map_err(|_| D::Error::custom(format!("unknown dtype {name:?}")))
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<RawHeader, M::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let tensor =
                        map.next_value().map_err(|error| M::Error::custom(format!("tensor {name:?}: {error}")))?;
                    tensors.push((name, tensor));
                }
                Ok(RawHeader(tensors))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Axes;
        impl<'de> Visitor<'de> for Axes {
            type Value = Dims;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut axes: S) -> std::result::Result<Dims, S::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = axes.next_element()? {
                    if dims.len() == RANK_LIMIT {
                        return Err(S::Error::custom(format!("more than {RANK_LIMIT} dimensions")));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(Axes)
    }
}
