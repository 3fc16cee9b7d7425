//! Properties of a given video besides its frames. What is lost or changed by reading plain frames is reported, with the ffmpeg
//! line that keeps it; what would give wrong colours (HDR taken for ordinary video) is refused, with the line that converts it.

use crate::fault::input;
use crate::source::{quoted, transparent};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Stream;
use ffmpeg_next::util::frame;
use ffmpeg_next::{codec, ffi, media};
use std::ffi::c_int;
use std::path::Path;

/// The filters that make ordinary video of HDR, by FFmpeg's own example for `tonemap`.
const TONE_MAP: &str = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,\
                        zscale=t=bt709:m=bt709:r=tv,format=yuv420p";

/// Numbers of a C enum as they are: decoders copy them from the file unchecked.
struct Colours {
    transfer: c_int,
    primaries: c_int,
}

impl Colours {
    fn of(picture: &frame::Video) -> Self {
        // SAFETY: the picture is alive; a C enum is an integer of this size, and no reference to it is made.
        unsafe {
            let picture = picture.as_ptr();
            Self {
                transfer: (&raw const (*picture).color_trc).cast::<c_int>().read(),
                primaries: (&raw const (*picture).color_primaries).cast::<c_int>().read(),
            }
        }
    }
}

/// Refuses HDR.
pub(super) fn check(path: &Path, picture: &frame::Video) -> anyhow::Result<()> {
    const PQ: c_int = ffi::AVColorTransferCharacteristic::AVCOL_TRC_SMPTE2084 as c_int;
    const HLG: c_int = ffi::AVColorTransferCharacteristic::AVCOL_TRC_ARIB_STD_B67 as c_int;
    const LINEAR: c_int = ffi::AVColorTransferCharacteristic::AVCOL_TRC_LINEAR as c_int;
    let curve = match Colours::of(picture).transfer {
        PQ => "PQ",
        HLG => "HLG",
        LINEAR => "linear light",
        _ => return Ok(()),
    };
    Err(input(format!(
        "{} is HDR ({curve}) and would come out washed out: make ordinary video of it and give that: ffmpeg -i {} -vf \
         \"{TONE_MAP}\" -crf 12 sdr.mp4",
        path.display(),
        quoted(path)
    )))
}

/// What is lost or changed of the streams and the first picture of a file; one sentence each.
pub(super) fn lost(path: &Path, container: &Input, stream: usize, picture: &frame::Video) -> Vec<String> {
    let (name, file) = (path.display(), quoted(path));
    let mut lost = beside(path, container, stream);
    if picture.is_interlaced() {
        lost.push(format!(
            "{name} is interlaced: its two fields are read as one picture, with combs where things move; to separate them \
             first: ffmpeg -i {file} -vf bwdif=send_frame -crf 12 progressive.mp4"
        ));
    }
    let (across, down) = aspect(container, stream, picture);
    if across > 0 && down > 0 && across != down {
        lost.push(format!(
            "{name} has pixels of {across}:{down}, which are taken for square: things get another shape; to keep it: ffmpeg -i \
             {file} -vf scale=iw*sar:ih,setsar=1 -crf 12 square.mp4"
        ));
    }
    const BT2020: c_int = ffi::AVColorPrimaries::AVCOL_PRI_BT2020 as c_int;
    const DCI_P3: c_int = ffi::AVColorPrimaries::AVCOL_PRI_SMPTE431 as c_int;
    const DISPLAY_P3: c_int = ffi::AVColorPrimaries::AVCOL_PRI_SMPTE432 as c_int;
    let wide = match Colours::of(picture).primaries {
        BT2020 => Some("BT.2020"),
        DCI_P3 | DISPLAY_P3 => Some("P3"),
        _ => None,
    };
    if let Some(wide) = wide {
        lost.push(format!(
            "{name} has the wide colours of {wide}, which are taken for BT.709: paler; to convert them: ffmpeg -i {file} -vf \
             zscale=p=bt709:t=bt709:m=bt709,format=yuv420p -crf 12 bt709.mp4"
        ));
    }
    // SAFETY: the descriptor is a constant of the library, or none for a format without one.
    let (depth, alpha) = unsafe {
        let descriptor = ffi::av_pix_fmt_desc_get(picture.format().into());
        match descriptor.as_ref() {
            Some(found) => (found.comp[0].depth, found.flags & (1 << 7) != 0), // AV_PIX_FMT_FLAG_ALPHA
            None => (8, false),
        }
    };
    if depth > 8 {
        lost.push(format!(
            "{name} has {depth} bits a colour: 8 are read, without dither; to dither them: ffmpeg -i {file} -vf \
             scale=sws_dither=ed,format=yuv420p -crf 12 8bit.mp4"
        ));
    }
    let decoder = container.stream(stream).and_then(|stream| alpha_decoder(&stream));
    if alpha || decoder.is_some() {
        lost.push(transparent(path, decoder.unwrap_or_default()));
    }
    lost
}

/// What makes ffmpeg read the transparency of a WebM, which FFmpeg's own decoders leave out; none of another stream.
fn alpha_decoder(stream: &Stream) -> Option<&'static str> {
    let marked = stream.metadata().iter().any(|(key, value)| key.eq_ignore_ascii_case("alpha_mode") && value == "1");
    match stream.parameters().id() {
        codec::Id::VP9 if marked => Some("-c:v libvpx-vp9 "),
        codec::Id::VP8 if marked => Some("-c:v libvpx "),
        _ => None,
    }
}

/// Width and height of a pixel: the container's word outweighs the codec's.
fn aspect(container: &Input, stream: usize, picture: &frame::Video) -> (i32, i32) {
    let Some(stream) = container.stream(stream) else { return (0, 1) };
    // SAFETY: all three are alive; the function takes mutable pointers and changes nothing.
    let found = unsafe {
        let (container, stream) = (container.as_ptr().cast_mut(), stream.as_ptr().cast_mut());
        ffi::av_guess_sample_aspect_ratio(container, stream, picture.as_ptr().cast_mut())
    };
    (found.num, found.den)
}

/// Streams that are not read.
fn beside(path: &Path, container: &Input, read: usize) -> Vec<String> {
    let (name, file) = (path.display(), quoted(path));
    let (mut sound, mut subtitles, mut videos) = (false, false, Vec::new());
    for stream in container.streams() {
        // SAFETY: every stream has parameters, for as long as the context lives.
        let (medium, picture) = unsafe {
            let stream = stream.as_ptr();
            let medium = media::Type::from((*(*stream).codecpar).codec_type);
            (medium, (*stream).disposition & ffi::AV_DISPOSITION_ATTACHED_PIC as c_int != 0)
        };
        match medium {
            media::Type::Audio => sound = true,
            media::Type::Subtitle => subtitles = true,
            media::Type::Video => videos.push((stream.index(), picture)),
            _ => {}
        }
    }
    let mut lost = Vec::new();
    if sound || subtitles {
        let (what, maps) = match (sound, subtitles) {
            (true, false) => ("sound", "-map 1:a -c copy"),
            (false, _) => ("subtitles", "-map 1:s -c copy -c:s mov_text"),
            (true, true) => ("sound and subtitles", "-map 1:a -map 1:s -c copy -c:s mov_text"),
        };
        lost.push(format!(
            "{name} has {what}, and the output has not; to put it back: ffmpeg -i OUTPUT -i {file} -map 0:v {maps} \
             whole.mp4"
        ));
    }
    if let Some(other) = other(&videos, read) {
        let count = videos.iter().filter(|(_, picture)| !picture).count();
        lost.push(format!(
            "{name} has {count} videos: stream {read} is read; for another: ffmpeg -i {file} -map 0:v:{other} -c copy other.mp4"
        ));
    }
    lost
}

/// Number of the first video that is not read, counted as ffmpeg counts them. `videos`: index, whether it is a cover picture.
fn other(videos: &[(usize, bool)], read: usize) -> Option<usize> {
    videos.iter().position(|&(index, picture)| !picture && index != read)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_video_that_is_not_read_is_the_one_that_is_named() {
        let other = super::other;
        assert_eq!(other(&[(0, false)], 0), None);
        assert_eq!(other(&[(1, true), (2, false)], 2), None);
        assert_eq!(other(&[(0, false), (2, false)], 0), Some(1));
        assert_eq!(other(&[(0, false), (1, false)], 1), Some(0));
        assert_eq!(other(&[(0, true), (1, false), (3, false)], 1), Some(2));
    }
}
