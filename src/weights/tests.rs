//! Folders and the embedded model: what loads, and what each wrong folder says.

use super::*;
use candle_core::{DType, Device, Tensor};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A safetensors file of a header's text and some data.
pub(super) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A small valid file: `a` f32 [2, 2] = 1 2 3 4, `b.weight` f16 [3] = 1 -2 0.5.
pub(super) fn small() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"#
        .to_owned()
        + r#""b.weight":{"dtype":"F16","shape":[3],"data_offsets":[16,22]}}"#;
    let mut data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    data.extend([1f32, -2.0, 0.5].iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()));
    safetensors(&header, &data)
}

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";
const INDEX: &str = "transformer/diffusion_pytorch_model.safetensors.index.json";

/// A pipeline class that is known.
pub(super) fn pipeline() -> &'static str {
    registry::FAMILIES[0].pipelines[0]
}

/// A model index of it.
pub(super) fn model_index() -> String {
    format!("{{\"_class_name\":{:?}}}", pipeline())
}

/// A folder with these files (and a model index, unless one is given).
pub(super) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = model_index();
    let index: (&str, &[u8]) = ("model_index.json", text.as_bytes());
    for (path, content) in std::iter::once(&index).chain(files) {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

pub(super) fn open(folder: &TempDir) -> anyhow::Result<ModelFolder> {
    ModelFolder::open(folder.path().to_str().unwrap(), true)
}

/// The part `transformer` of a folder with these files.
fn part(files: &[(&str, &[u8])]) -> (TempDir, anyhow::Result<Part>) {
    let folder = folder(files);
    let part = open(&folder).and_then(|model| model.part("transformer"));
    (folder, part)
}

/// The error's text, after checking that it is one line and of this module.
#[track_caller]
pub(super) fn message<T>(result: anyhow::Result<T>) -> String {
    let Err(error) = result else { panic!("no error") };
    assert!(error.chain().any(|cause| cause.is::<ModelError>()), "{error:?}");
    let text = format!("{error:#}");
    assert!(!text.contains('\n'), "{text}");
    text
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Shared mappings do not exist on many network file systems and under FUSE; private ones do.
#[test]
#[cfg(target_os = "linux")]
fn weights_are_mapped_privately() {
    let folder = folder(&[("vae/diffusion_pytorch_model.safetensors", &small())]);
    let place = folder.path().canonicalize().unwrap().join("vae/diffusion_pytorch_model.safetensors");
    let source = Source::Folder(folder.path().to_owned());
    let mapped = source.map("vae/diffusion_pytorch_model.safetensors").unwrap();
    assert_eq!(&mapped[..], small());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with(place.to_str().unwrap())).unwrap();
    assert!(line.contains(" r--p "), "{line}");
}

#[test]
fn a_folder_and_the_embedded_model_are_the_same() {
    let embedded = ModelFolder::open(EMBEDDED, true).unwrap();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/toyland");
    let folder = ModelFolder::open(path.to_str().unwrap(), true).unwrap();
    assert_eq!((embedded.name(), embedded.class()), ("toyland", pipeline()));
    for name in ["transformer", "vae", "text_encoder"] {
        let (a, b) = (embedded.part(name).unwrap(), folder.part(name).unwrap());
        assert_eq!(a.tensors().unwrap(), b.tensors().unwrap());
        assert_eq!(a.hash().unwrap(), b.hash().unwrap());
        assert_eq!(a.config::<serde_json::Value>().unwrap(), b.config::<serde_json::Value>().unwrap());
        assert_eq!(a.stored_dtype(), Some(DType::F16));
        assert_eq!((a.bytes(), a.bytes_as(DType::F32)), (2 * a.elements(), 4 * a.elements()));
        let (a, b) =
            (a.var_builder(DType::F32, &Device::Cpu).unwrap(), b.var_builder(DType::F32, &Device::Cpu).unwrap());
        for info in embedded.part(name).unwrap().tensors().unwrap() {
            let (a, b) = (a.get(info.shape.as_slice(), &info.name), b.get(info.shape.as_slice(), &info.name));
            assert_eq!(values(&a.unwrap()), values(&b.unwrap()), "{}", info.name);
        }
    }
}

/// Every file of their folders but the model card.
#[test]
fn embedded_models_are_whole() {
    for (embedded, (name, files)) in ModelFolder::all_embedded().iter().zip(embedded::MODELS) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
        let part_of = |file: &String| file != "README.md" && PARTS.iter().any(|part| file.starts_with(part));
        let on_disk = walk(&path).into_iter().filter(part_of).collect::<Vec<_>>();
        let mut inside: Vec<_> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
        inside.sort();
        assert_eq!((embedded.name(), &inside), (name, &on_disk));
        for file in &inside {
            assert!(embedded.has(file) && embedded.read(file).unwrap() == fs::read(path.join(file)).unwrap());
        }
    }
}

/// What a model's own files begin with; other models may lie beside them.
const PARTS: [&str; 8] =
    ["controlnet/", "model_index.json", "scheduler/", "text_encoder/", "tokenizer/", "transformer/", "unet/", "vae/"];

fn walk(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            names.push(path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"));
        }
    }
    names.sort();
    names
}

#[test]
fn a_hash_is_that_of_the_files_one_after_the_other() {
    let (_folder, part) = part(&[(WEIGHTS, &small())]);
    assert_eq!(part.unwrap().hash().unwrap(), blake3::hash(&small()).to_hex().to_string());
}

#[test]
fn tensors_are_converted_and_their_errors_name_everything() {
    let (_folder, part) = part(&[(WEIGHTS, &small())]);
    let part = part.unwrap();
    let names: Vec<_> =
        part.tensors().unwrap().into_iter().map(|info| (info.name, info.dtype.to_string(), info.shape)).collect();
    assert_eq!(names, [("a".into(), "F32".into(), vec![2, 2]), ("b.weight".into(), "F16".into(), vec![3])]);
    assert_eq!((part.bytes(), part.elements()), (22, 7));
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let vb = part.var_builder(dtype, &Device::Cpu).unwrap();
        let a = vb.get((2, 2), "a").unwrap();
        assert_eq!((a.dtype(), values(&a)), (dtype, vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!(values(&vb.pp("b").get(3, "weight").unwrap()), [1.0, -2.0, 0.5]);
        assert!(vb.contains_tensor("a") && vb.pp("b").contains_tensor("weight") && !vb.contains_tensor("b"));
    }
    let vb = part.var_builder(DType::F32, &Device::Cpu).unwrap();
    let text = vb.pp("b").get((3, 1), "weight").unwrap_err().to_string();
    assert_says(&text, &[WEIGHTS, "\"b.weight\"", "has shape [3]", "expected [3, 1]"]);
    let text = vb.pp("b").get(3, "weights").unwrap_err().to_string();
    assert_says(&text, &[WEIGHTS, "no tensor \"b.weights\"", "nearest name there is \"b.weight\""]);
    let text = vb.get(3, "transformer_blocks.0.norm").unwrap_err().to_string();
    assert!(text.ends_with("no tensor \"transformer_blocks.0.norm\""), "{text}");
}

#[test]
fn a_file_that_changed_since_it_was_opened_is_refused() {
    let (folder, part) = part(&[(WEIGHTS, &small())]);
    let part = part.unwrap();
    let changed = small().iter().map(|&byte| if byte == b'a' { b'z' } else { byte }).collect::<Vec<_>>();
    for content in [&small()[..50], &changed] {
        fs::write(folder.path().join(WEIGHTS), content).unwrap();
        assert_says(&message(part.var_builder(DType::F32, &Device::Cpu).map(drop)), &[WEIGHTS, "changed while"]);
        assert_says(&message(part.hash()), &[WEIGHTS, "changed while"]);
    }
}

/// Two shards with an index: `a` in the first, `b.weight` in the second.
fn shards() -> [Vec<u8>; 2] {
    let one = safetensors(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0, 0, 128, 63, 0, 0, 0, 64]);
    let two = safetensors(r#"{"b.weight":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#, &[128, 63]);
    [one, two]
}

const SHARDS: [&str; 2] = ["transformer/m-00001-of-00002.safetensors", "transformer/m-00002-of-00002.safetensors"];

fn index_of(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<String> = entries.iter().map(|(name, file)| format!("{name:?}:{file:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":10}},"weight_map":{{{}}}}}"#, entries.join(",")).into_bytes()
}

#[test]
fn shards_load_through_their_index() {
    let ([one, two], names) = (shards(), SHARDS.map(|name| name.rsplit('/').next().unwrap()));
    let index = index_of(&[("b.weight", names[1]), ("a", names[0])]);
    let files: [(&str, &[u8]); 3] = [(INDEX, &index), (SHARDS[0], &one), (SHARDS[1], &two)];
    let (_folder, opened) = part(&files);
    let opened = opened.unwrap();
    assert_eq!(opened.files().map(|(name, _)| name).collect::<Vec<_>>(), SHARDS);
    assert_eq!(opened.hash().unwrap(), blake3::hash(&[&one[..], &two].concat()).to_hex().to_string());
    let vb = opened.var_builder(DType::F32, &Device::Cpu).unwrap();
    assert_eq!(values(&vb.get(2, "a").unwrap()), [1.0, 2.0]);
    assert_eq!(values(&vb.get(1, "b.weight").unwrap()), [1.0]);
    let text = vb.get(2, "b.weight").unwrap_err().to_string();
    assert_says(&text, &[SHARDS[1], "has shape [1]"]);

    // each wrong index, with what its error says
    let wrong: [(Vec<u8>, &[&str]); 12] = [
        (index_of(&[("a", "gone-1.safetensors"), ("b", "gone-2.safetensors")]), &["gone-1", "gone-2", "2 of 2 shards"]),
        (index_of(&[("a", names[0]), ("b.weight", "gone.safetensors")]), &["gone.safetensors", "1 of 2 shards is"]),
        (
            index_of(&[("a", names[0]), ("b.weight", names[1]), ("c", names[1])]),
            &[SHARDS[1], "\"c\" is missing", INDEX],
        ),
        (index_of(&[("a", names[1]), ("b.weight", names[0])]), &[INDEX, "\"a\" should be in m-00002"]),
        (index_of(&[("a", "../m-00001-of-00002.safetensors")]), &[INDEX, "outside the folder"]),
        (index_of(&[("a", "/etc/passwd.safetensors")]), &[INDEX, "outside the folder"]),
        (index_of(&[("a", "x\\y.safetensors")]), &[INDEX, "outside the folder"]),
        (index_of(&[("a", "m.bin")]), &[INDEX, "pickle"]),
        (index_of(&[("a", "m.gguf")]), &[INDEX, "not a .safetensors"]),
        (index_of(&[]), &[INDEX, "names no shards"]),
        (index_of(&[("a", names[0]), ("a", names[0])]), &[INDEX, "twice"]),
        (b"{\"weight_map\":[]}".to_vec(), &[INDEX, "not an index"]),
    ];
    for (index, says) in wrong {
        let files: [(&str, &[u8]); 3] = [(INDEX, &index), (SHARDS[0], &one), (SHARDS[1], &two)];
        assert_says(&message(part(&files).1.map(drop)), says);
    }
    // the same tensor in two shards
    let files: [(&str, &[u8]); 3] = [(INDEX, &index), (SHARDS[0], &one), (SHARDS[1], &one)];
    assert_says(&message(part(&files).1.map(drop)), &[SHARDS[1], "\"a\"", "m-00001-of-00002.safetensors too"]);
    // a damaged shard
    let files: [(&str, &[u8]); 3] = [(INDEX, &index), (SHARDS[0], &one[..one.len() - 1]), (SHARDS[1], &two)];
    assert_says(&message(part(&files).1.map(drop)), &[SHARDS[0], "truncated"]);
}

#[test]
fn of_several_forms_the_documented_one_wins() {
    let order = [
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
        "model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.bf16.safetensors",
        "model.bf16.safetensors",
    ];
    for (from, winner) in order.iter().enumerate() {
        let there: Vec<String> = order[from..].iter().map(|name| format!("vae/{name}")).collect();
        let (layout, ignored) = files::locate("vae", |path| there.iter().any(|name| name == path)).unwrap();
        assert_eq!(layout.path(), format!("vae/{winner}"));
        assert_eq!(ignored, there[1..]);
    }
    let (_folder, opened) =
        part(&[("transformer/model.fp16.safetensors", &small()), ("transformer/model.bf16.safetensors", &small())]);
    let opened = opened.unwrap();
    assert_eq!(opened.files().next().unwrap().0, "transformer/model.fp16.safetensors");
    assert_eq!(opened.ignored(), ["transformer/model.bf16.safetensors"]);
}

#[test]
fn pickles_are_refused_and_never_opened() {
    for name in ["pytorch_model.bin", "diffusion_pytorch_model.CKPT", "model.pt", "model.pth", "model.pkl"] {
        let path = format!("transformer/{name}");
        // not even readable as a pickle: nothing may look into it
        assert_says(&message(part(&[(&path, b"junk")]).1.map(drop)), &[name, "never opened", "convert", "safetensors"]);
    }
    let (folder, _) = part(&[("model.ckpt", b"junk")]);
    let file = folder.path().join("model.ckpt");
    assert_says(&message(ModelFolder::open(file.to_str().unwrap(), true).map(drop)), &["model.ckpt", "never opened"]);
    // safetensors beside pickles are fine
    assert!(part(&[("transformer/diffusion_pytorch_model.bin", b"junk"), (WEIGHTS, &small())]).1.is_ok());
}

#[test]
fn a_wrong_folder_says_what_is_wrong() {
    let says = |spec: &Path, parts: &[&str]| {
        assert_says(&message(ModelFolder::open(spec.to_str().unwrap(), true).map(drop)), parts);
    };
    let name = short_names().next().unwrap();
    let typed = name.replacen('o', "", 1);
    let (quoted, hint) = (format!("{typed:?}"), format!("did you mean {name}?"));
    says(Path::new(&typed), &[&quoted, "no known model", "toyland", &hint]);
    says(Path::new(""), &["\"\"", "no such folder"]);
    let empty = tempfile::tempdir().unwrap();
    says(&empty.path().join("none"), &["none", "no such folder"]);
    says(empty.path(), &["model_index.json", "no such file"]);
    fs::write(empty.path().join("w.safetensors"), small()).unwrap();
    says(&empty.path().join("w.safetensors"), &["w.safetensors", "not a model folder"]);

    let supported = format!("supported: {}", pipeline());
    let whole = model_index();
    let index: &[(&[u8], &[&str])] = &[
        (br#"{"_class_name":"WanPipeline"}"#, &["model_index.json", "\"WanPipeline\"", &supported]),
        (br#"{}"#, &["model_index.json", "_class_name"]),
        (whole.trim_end_matches('}').as_bytes(), &["model_index.json", "EOF"]),
        (b"", &["model_index.json"]),
    ];
    for (text, parts) in index {
        says(folder(&[("model_index.json", text)]).path(), parts);
    }

    let model = folder(&[("transformer/config.json", br#"{"num_layers":"six","sizes":[1,-2]}"#)]);
    let model = open(&model).unwrap();
    let text = message(model.part("transformer").map(drop));
    assert_says(
        &text,
        &["transformer: part \"transformer\" is missing", "diffusion_pytorch_model.safetensors", ".fp16"],
    );
    assert_says(&message(model.part("../transformer").map(drop)), &["not the name of a part"]);

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    struct Layers {
        num_layers: usize,
    }
    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    struct Sizes {
        sizes: Vec<usize>,
    }
    let config = "transformer/config.json";
    assert_says(&message(model.json::<Layers>(config)), &[config, "\"num_layers\"", "\"six\""]);
    assert_says(&message(model.json::<Sizes>(config)), &[config, "\"sizes[1]\"", "-2"]);
    assert_says(&message(model.json::<Layers>("model_index.json")), &["missing field `num_layers`"]);
    assert_says(&message(model.json::<Layers>("vae/config.json")), &["vae/config.json", "no such file"]);
}

#[cfg(all(unix, not(feature = "hub")))]
#[test]
fn without_hub_access_a_hub_name_says_so_and_the_cache_still_serves() {
    let cache = folder(&[]);
    let hub = |offline| Hub { cache: cache.path().into(), endpoint: String::new(), token: None, offline };
    let open = |offline| Ok(ModelFolder::resolve("org/model", || hub(offline), &mut ())?);
    assert_says(
        &message(open(false).map(drop)),
        &["org/model", "not in the cache", "feature `hub`", "give its folder"],
    );
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let path = cache.path().join("models--org--model");
    fs::create_dir_all(path.join("refs")).unwrap();
    fs::create_dir_all(path.join("snapshots")).unwrap();
    fs::write(path.join("refs/main"), commit).unwrap();
    let toyland = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/toyland");
    std::os::unix::fs::symlink(toyland, path.join("snapshots").join(commit)).unwrap();
    for offline in [true, false] {
        assert_eq!(open(offline).unwrap().revision(), Some(commit));
    }
}

#[test]
fn reading_stays_inside_the_model() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    let model = folder(&[("vae/config.json", b"{}")]);
    let inside = open(&model).unwrap();
    let absolute = outside.path().join("secret").to_str().unwrap().to_owned();
    let up = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    for path in ["", &absolute, &up, "vae/../vae/config.json", "vae\\config.json", "vae/con\0fig.json"] {
        assert!(!inside.has(path), "{path:?}");
        assert_says(&message(inside.read(path)), &["not a path inside"]);
    }
    assert_says(&message(inside.read("vae")), &["vae: not a file"]);
    let big = fs::File::create(model.path().join("big.json")).unwrap();
    big.set_len(files::SMALL_FILE + 1).unwrap();
    assert_says(&message(inside.read("big.json")), &["big.json", "larger than 64 MiB"]);
}

#[cfg(unix)]
#[test]
fn a_hub_snapshot_of_links_loads_and_a_pipe_is_not_waited_for() {
    use std::os::unix::fs::symlink;
    let cache = folder(&[("blobs/abc", &small())]);
    let snapshot = cache.path().join("snapshots/0123");
    fs::create_dir_all(snapshot.join("transformer")).unwrap();
    fs::rename(cache.path().join("model_index.json"), cache.path().join("blobs/def")).unwrap();
    symlink("../../blobs/def", snapshot.join("model_index.json")).unwrap();
    let link = snapshot.join(WEIGHTS);
    symlink("../../../blobs/abc", &link).unwrap();
    let model = ModelFolder::open(snapshot.to_str().unwrap(), true).unwrap();
    assert_eq!(model.part("transformer").unwrap().elements(), 7);

    // a link to a blob that was removed is a missing file, and says so when it is asked for
    fs::remove_file(cache.path().join("blobs/abc")).unwrap();
    let model = ModelFolder::open(snapshot.to_str().unwrap(), true).unwrap();
    assert_says(&message(model.part("transformer").map(drop)), &["is missing"]);
    assert_says(&message(model.read(WEIGHTS)), &[WEIGHTS, "a link to a file that is not there"]);

    fs::remove_file(&link).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&link).status().unwrap().success());
    assert_says(&message(model.read(WEIGHTS)), &[WEIGHTS, "not a file"]);
    assert_says(&message(model.part("transformer").map(drop)), &["is missing"]);
}

#[test]
fn refusals_name_what_is_there_and_what_to_do() {
    let shard = small();
    let two: [(&str, &[u8]); 2] = [
        ("transformer/diffusion_pytorch_model-00001-of-00002.safetensors", &shard),
        ("transformer/diffusion_pytorch_model-00002-of-00002.safetensors", &shard),
    ];
    let kept = folder(&two);
    let model = open(&kept).unwrap();
    assert_says(
        &message(model.part("transformer").map(drop)),
        &["00001-of-00002", "without the index", "diffusion_pytorch_model.safetensors.index.json"],
    );
    let kept = folder(&[("vae/vae-ft.safetensors", &shard)]);
    let other = open(&kept).unwrap();
    assert_says(&message(other.part("vae").map(drop)), &["there is vae-ft.safetensors", "one of these names"]);

    let class = |class: &str| {
        let text = format!("{{\"_class_name\": {class:?}}}");
        message(open(&folder(&[("model_index.json", text.as_bytes())])).map(drop))
    };
    let of = |task: &str| class(&pipeline().replace("Pipeline", &format!("{task}Pipeline")));
    assert_says(&of("VideoToVideo"), &["_class_name", pipeline(), "extend"]);
    assert_says(&of("FunControl"), &["text-to-video model"]);

    // names within another network's
    let header = r#"{"module.a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
    let prefixed = safetensors(header, &[0; 4]);
    let kept = folder(&[("vae/diffusion_pytorch_model.safetensors", &prefixed)]);
    let weights = open(&kept).unwrap().part("vae").unwrap().var_builder(DType::F32, &Device::Cpu).unwrap();
    let error = weights.get(2, "a").unwrap_err().to_string();
    assert_says(&error, &["prefix \"module.\"", "save them without it"]);

    let header = r#"{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#;
    let quantized = safetensors(header, &[0; 2]);
    let kept = folder(&[("vae/diffusion_pytorch_model.safetensors", &quantized)]);
    let weights = open(&kept).unwrap().part("vae").unwrap().var_builder(DType::F32, &Device::Cpu).unwrap();
    assert_says(&weights.get(2, "a").unwrap_err().to_string(), &["I8", "quantized", "f16"]);
}

#[test]
fn json_of_editors_and_of_python_is_read() {
    let class = pipeline();
    let text = format!(
        "\u{feff}{{\r\n \"_class_name\": {class:?},\r\n \"a\": NaN, \"b\": [-Infinity, 1], \"c\": \"NaN \\\" Infinity\"}}"
    );
    let kept = folder(&[("model_index.json", text.as_bytes())]);
    let model = open(&kept).unwrap();
    let value: serde_json::Value = model.json("model_index.json").unwrap();
    assert!(value["a"].is_null() && value["b"][0].is_null() && value["b"][1] == 1);
    assert_eq!(value["c"], "NaN \" Infinity");
}
