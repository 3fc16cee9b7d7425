//! Many jobs from one file.

use crate::cli::program::{Done, Program};
use crate::common::tiny;
use serde_json::Value;
use std::fs;

/// The shortest run on the built-in model.
const QUICK: &str = "\"steps\": 1, \"frames\": 1, \"size\": \"32x32\"";

fn program(jobs: &str) -> Program {
    let program = Program::new();
    fs::write(program.path("jobs.jsonl"), jobs).unwrap();
    program
}

fn line(rest: &str) -> String {
    format!("{{{rest}, {QUICK}}}\n")
}

fn object(done: &Done) -> Value {
    serde_json::from_str(&done.stdout()).unwrap()
}

fn states(done: &Done) -> Vec<(String, String)> {
    let object = object(done);
    let text = |job: &Value, key: &str| job[key].as_str().unwrap().to_owned();
    object["jobs"].as_array().unwrap().iter().map(|job| (text(job, "id"), text(job, "state"))).collect()
}

#[test]
fn jobs_are_rendered_and_finished_ones_skipped() {
    let two = "{\"id\": \"a1\", \"prompt\": [\"a red ball\", \"a blue box\"], \"transition\": \"cut\", \"seed\": 7, \"output\": \
               \"a1.gif\", \"steps\": 1, \"frames\": 2, \"size\": \"32x32\"}\n";
    let jobs =
        two.to_owned() + &line("\"id\": \"b\", \"prompt\": \"a red ball\", \"seed\": [1, 2], \"output\": \"{id}.gif\"");
    let program = program(&jobs);
    let words = ["batch", "jobs.jsonl", "--output-root", "out", "--json", "--progress", "json"];
    let first = program.run(&words).success();
    assert_eq!(
        states(&first),
        [("a1", "done"), ("b-seed1", "done"), ("b-seed2", "done")].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    assert!(["a1.gif", "b-seed1.gif", "b-seed2.gif"].iter().all(|name| program.path("out").join(name).exists()));
    let events: Vec<Value> = first.stderr().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about = |job: &str| events.iter().filter(|event| event["job"] == job).count();
    assert_eq!(events.iter().filter(|event| event["job"].is_null()).count(), 0, "every event says its job");
    assert!(about("a1") > 5 && about("b-seed2") > 5);
    assert_eq!(events.iter().filter(|event| event["event"] == "plan").count(), 3);

    // what is there is the same video as the command of its own makes
    program
        .run(&[
            "generate",
            "a red ball",
            "--seed",
            "2",
            "--steps",
            "1",
            "--frames",
            "1",
            "--size",
            "32x32",
            "-o",
            "one.gif",
        ])
        .success();
    let alone = program.run(&["inspect", "one.gif", "--json"]).success();
    let batch = program.run(&["inspect", "out/b-seed2.gif", "--json"]).success();
    let windows = |done: &Done| object(done)["settings"]["windows"].clone();
    assert_eq!(windows(&alone), windows(&batch));

    let before = fs::metadata(program.path("out/a1.gif")).unwrap().modified().unwrap();
    fs::remove_file(program.path("out/b-seed1.gif")).unwrap();
    let again = program.run(&words).success();
    assert_eq!(states(&again).into_iter().map(|(_, state)| state).collect::<Vec<_>>(), ["skipped", "done", "skipped"]);
    assert_eq!(fs::metadata(program.path("out/a1.gif")).unwrap().modified().unwrap(), before);

    // another request for the same place is no finished job
    let other = [&words[..], &["--guidance-scale", "3"]].concat();
    let refused = program.run(&["batch", "jobs.jsonl", "--output-root", "out", "--guidance-scale", "3"]);
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr().contains("was made from other settings") && refused.stderr().contains("3 mistakes"));
    let replaced = program.run(&[&other[..], &["-y"]].concat()).success();
    assert!(states(&replaced).iter().all(|(_, state)| state == "done"));
}

#[test]
fn nothing_is_rendered_while_there_are_mistakes() {
    let jobs = line("\"id\": \"a\", \"prompt\": \"a red ball\", \"output\": \"a.gif\"")
        + &line("\"id\": \"b\", \"prompt\": \"a red ball\", \"output\": \"x/../a.gif\"")
        + &line("\"id\": \"c\", \"prompt\": \"a red ball\", \"output\": \"./a.gif\"")
        + &line("\"id\": \"a\", \"prompt\": \"a red ball\", \"output\": \"d.gif\"")
        + &line("\"id\": \"e\", \"promt\": \"a red ball\"")
        + &line("\"id\": \"f\", \"prompt\": \"a red ball\", \"eta\": 3")
        + &line("\"id\": \"g\", \"prompt\": \"a red ball\", \"model\": \"./none\"")
        + &line("\"id\": \"h\", \"prompt\": \"a red ball\", \"log_file\": \"run.log\"")
        + "{\"id\": \n";
    let program = program(&jobs);
    let done = program.run(&["batch", "jobs.jsonl", "--output-root", "out"]);
    let stderr = done.stderr();
    assert_eq!((done.code(), done.stdout().as_str()), (2, ""), "{stderr}");
    for told in [
        "jobs.jsonl:2: output x/../a.gif: outputs stay below",
        "jobs.jsonl:3: writes out/a.gif, as line 1 does",
        "jobs.jsonl:4: id \"a\" is that of line 1 as well",
        "jobs.jsonl:5: unknown key \"promt\": did you mean prompt?",
        "jobs.jsonl:6: --eta",
        "jobs.jsonl:7: ",
        "jobs.jsonl:8: log_file holds for the whole batch: use --log-file",
        "jobs.jsonl:9: not JSON",
        "error: jobs.jsonl: 8 mistakes, nothing was rendered",
    ] {
        assert!(stderr.contains(told), "{told}: {stderr}");
    }
    assert!(!program.path("out").exists(), "not even a directory");
    // in the working directory a file has several names as well
    let two = line("\"id\": \"a\", \"prompt\": \"x\", \"output\": \"a.gif\"")
        + &line("\"id\": \"b\", \"prompt\": \"x\", \"output\": \"./a.gif\"");
    fs::write(program.path("two.jsonl"), two).unwrap();
    program.run(&["batch", "two.jsonl", "--dry-run"]).error(2, &["two.jsonl:2: writes a.gif, as line 1 does"]);
    program.run(&["batch", "none.jsonl"]).error(2, &["none.jsonl", "no such file"]);
    fs::write(program.path("empty.jsonl"), "# nothing\n").unwrap();
    program.run(&["batch", "empty.jsonl"]).error(2, &["empty.jsonl", "no jobs"]);
}

#[test]
fn one_failure_does_not_stop_the_rest() {
    let jobs =
        line("\"id\": \"a\", \"prompt\": \"a red ball\", \"output\": \"a.gif\", \"init_noise\": \"noise.safetensors\"")
            + &line("\"id\": \"b\", \"prompt\": \"a red ball\", \"output\": \"b.gif\"");
    let program = program(&jobs);
    fs::write(program.path("noise.safetensors"), "nothing").unwrap();
    let done = program.run(&["batch", "jobs.jsonl"]);
    assert_ne!(done.code(), 0);
    let table = done.stdout();
    let row = |id: &str| table.lines().find(|line| line.starts_with(id)).unwrap().to_owned();
    assert!(row("a ").contains("failed") && row("a ").contains("noise.safetensors"), "{table}");
    assert!(row("b ").contains("done") && row("b ").contains("b.gif"), "{table}");
    assert!(done.stderr().contains("1 of 2 jobs failed, the first: a: "), "{}", done.stderr());
    assert!(!program.path("a.gif").exists() && program.path("b.gif").exists());
}

#[test]
fn shards_are_disjoint_and_change_nothing() {
    let toml = "[defaults]\nsteps = 1\nframes = 1\nsize = \"32x32\"\noutput = \"{id}.gif\"\n\n[[job]]\nid = \"a\"\n\
                prompt = \"a red ball\"\nseed = [1, 2, 3]\n\n[[job]]\nid = \"b\"\nprompt_file = \"in/p.txt\"\n";
    let program = Program::new();
    fs::create_dir(program.path("jobs")).unwrap();
    fs::create_dir(program.path("jobs/in")).unwrap();
    fs::write(program.path("jobs/in/p.txt"), "a red ball\n").unwrap();
    fs::write(program.path("jobs/jobs.toml"), toml).unwrap();
    let dry = |words: &[&str], variables: &[(&str, &str)]| {
        let words = [&["batch", "jobs/jobs.toml", "--dry-run", "--json"], words].concat();
        let done = Done(program.command(&words).envs(variables.iter().copied()).output().unwrap()).success();
        let object = object(&done);
        let jobs = object["jobs"].as_array().unwrap().iter();
        jobs.map(|job| (job["id"].as_str().unwrap().to_owned(), job["seed"].as_u64().unwrap())).collect::<Vec<_>>()
    };
    let all = dry(&[], &[]);
    assert_eq!(all.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a-seed1", "a-seed2", "a-seed3", "b"]);
    let (one, two) = (dry(&["--shard", "1/2"], &[]), dry(&["--shard", "2/2"], &[]));
    assert_eq!([&one[..], &two[..]].concat().len(), 4);
    assert!(all.iter().all(|job| one.contains(job) != two.contains(job)));
    let slurm = [
        ("SLURM_ARRAY_TASK_ID", "2"),
        ("SLURM_ARRAY_TASK_MIN", "1"),
        ("SLURM_ARRAY_TASK_MAX", "2"),
        ("SLURM_ARRAY_TASK_COUNT", "2"),
    ];
    assert_eq!(dry(&[], &slurm), two);
    assert_eq!(dry(&["--shard", "2"], &[("JOB_COMPLETION_INDEX", "1")]), two);
    assert!(fs::read_dir(program.path(".")).unwrap().count() <= 2, "a dry run leaves nothing behind");
    program.run(&["batch", "jobs/jobs.toml", "--shard", "3/2"]).error(2, &["parts count from 1 to 2"]);
}

#[test]
fn outputs_do_not_leave_the_root() {
    for path in ["/tmp/vidgen-outside.gif", "../outside.gif", "-", "a/{slug}/b.gif"] {
        let program = program(&line(&format!("\"prompt\": \"a red ball\", \"output\": \"{path}\"")));
        program.run(&["batch", "jobs.jsonl"]).error(2, &["jobs.jsonl:1: output"]);
    }
    let program = program(&line("\"prompt\": \"a red ball\", \"output\": \"up/a.gif\", \"save_latents\": \"../l\""));
    program.run(&["batch", "jobs.jsonl"]).error(2, &["save_latents ../l"]);
}

/// Peak memory in bytes of a batch of so many jobs that is only looked at.
#[cfg(target_os = "linux")]
fn peak(program: &Program, jobs: usize) -> i64 {
    let lines = (0..jobs).map(|number| format!("{{\"prompt\": \"a red ball {number}\", \"seed\": {number}}}\n"));
    fs::write(program.path("many.jsonl"), lines.collect::<String>()).unwrap();
    let mut command = program.command(&["batch", "many.jsonl", "--dry-run"]);
    #[allow(clippy::zombie_processes)] // `wait4` waits for it
    let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut status = 0;
    // SAFETY: the child was just started and nobody else waits for it; all bytes zero are a valid `rusage`.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        assert!(libc::wait4(child.id() as i32, &mut status, 0, &mut used) > 0);
        used
    };
    assert_eq!(status, 0);
    used.ru_maxrss * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn a_waiting_job_takes_some_hundred_bytes() {
    let program = Program::new();
    let (few, many) = (peak(&program, 20), peak(&program, 1520));
    let each = (many - few) / 1500;
    println!("{few} bytes with 20 jobs, {each} for each more");
    assert!(each < 2000, "{each} bytes a job");
}

/// A batch knows its videos by what they were made with, whatever the folder of the model is called.
#[test]
fn a_model_under_another_name_makes_the_same_videos() {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    let job = "{\"id\": \"b\", \"prompt\": \"a ball\", \"frames\": 1, \"steps\": 1, \"size\": \"32x32\", \"output\": \"b.gif\"}\n";
    fs::write(program.path("jobs.jsonl"), job).unwrap();
    program.run(&["batch", "jobs.jsonl", "-m", "model"]).success();
    let absolute = program.path("model");
    for name in ["./model", "model/", absolute.to_str().unwrap()] {
        let done = program.run(&["batch", "jobs.jsonl", "-m", name]).success();
        assert!(done.stdout().contains("skipped"), "{name}: {}", done.stdout());
    }
    tiny::write_folder("tiny-2b", "another", &program.path("other"));
    program.run(&["batch", "jobs.jsonl", "-m", "other"]).error(2, &["made from other settings"]);
}
