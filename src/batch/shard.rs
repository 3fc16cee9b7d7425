//! Which part of a batch a process does, so that many share it without communication.

use anyhow::{Error, Result, bail, ensure};
use std::fmt;
use std::str::FromStr;

/// What was asked for: `2/4`, or `4` where the number of the part is the environment's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// From 1.
    part: Option<usize>,
    of: usize,
}

impl FromStr for Asked {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let number = |text: &str| match text.trim().parse::<usize>() {
            Ok(number) if number >= 1 => Ok(number),
            _ => Err(anyhow::anyhow!("shard {word:?} is neither PART/PARTS (from 1, as 2/4) nor PARTS")),
        };
        let (part, of) = match word.split_once('/') {
            Some((part, of)) => (Some(number(part)?), number(of)?),
            None => (None, number(word)?),
        };
        ensure!(part.is_none_or(|part| part <= of), "shard {word}: parts count from 1 to {of}");
        Ok(Self { part, of })
    }
}

/// One of the parts of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    pub of: usize,
}

impl Shard {
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// The part of this process: as asked, or that of a Slurm job array, or of a Kubernetes Indexed Job, whose number of
    /// parts only the user knows. Everything where nobody says anything.
    pub fn settle(asked: Option<Asked>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| match variable(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => bail!("{name}={text:?} is not a number"),
            },
        };
        const INDEX: &str = "JOB_COMPLETION_INDEX";
        match asked {
            Some(Asked { part: Some(part), of }) => Ok(Self { index: part - 1, of }),
            Some(Asked { part: None, of }) => match number(INDEX)? {
                Some(index) if index < of => Ok(Self { index, of }),
                Some(index) => bail!("{INDEX} is {index}, and --shard {of} has parts 0 to {}", of - 1),
                None => bail!("--shard {of} takes its part from {INDEX}, which is not set: say --shard PART/{of}"),
            },
            None => match (number("SLURM_ARRAY_TASK_ID")?, number("SLURM_ARRAY_TASK_COUNT")?, number(INDEX)?) {
                (Some(task), Some(of), _) => {
                    let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
                    let last = number("SLURM_ARRAY_TASK_MAX")?.unwrap_or(first + of.max(1) - 1);
                    let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
                    ensure!(
                        (first..=last).contains(&task) && (last - first) / step + 1 == of,
                        "the Slurm array {first} to {last} has gaps ({of} tasks): say --shard PART/PARTS"
                    );
                    Ok(Self { index: (task - first) / step, of })
                }
                (Some(_), None, _) => bail!(
                    "SLURM_ARRAY_TASK_ID is set, but not SLURM_ARRAY_TASK_COUNT, how many tasks there are: say --shard \
                     PART/PARTS"
                ),
                (_, _, Some(_)) => {
                    bail!("{INDEX} is set, but not how many parts there are: say --shard PARTS (spec.completions)")
                }
                _ => Ok(Self::WHOLE),
            },
        }
    }

    /// Whether job `index` of the batch is of this part. Neighbours go to different parts: they are often alike in cost.
    pub fn has(&self, index: usize) -> bool {
        index % self.of == self.index
    }
}

impl fmt::Display for Shard {
    /// As `--shard` reads it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(asked: Option<&str>, variables: &[(&str, &str)]) -> Result<String> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Ok(Shard::settle(asked.map(str::parse).transpose()?, variable)?.to_string())
    }

    #[test]
    fn parts_come_from_flag_slurm_or_kubernetes() {
        let slurm = |id, min, max, step, count| {
            [
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", min),
                ("SLURM_ARRAY_TASK_MAX", max),
                ("SLURM_ARRAY_TASK_STEP", step),
                ("SLURM_ARRAY_TASK_COUNT", count),
            ]
        };
        assert_eq!(settled(None, &[]).unwrap(), "1/1");
        assert_eq!(settled(Some("2/4"), &slurm("0", "0", "7", "1", "8")).unwrap(), "2/4");
        assert_eq!(settled(None, &slurm("0", "0", "7", "1", "8")).unwrap(), "1/8");
        assert_eq!(settled(None, &slurm("8", "1", "8", "1", "8")).unwrap(), "8/8");
        assert_eq!(settled(None, &slurm("14", "10", "16", "2", "4")).unwrap(), "3/4");
        assert_eq!(settled(Some("4"), &[("JOB_COMPLETION_INDEX", "0")]).unwrap(), "1/4");
        let fault = |asked, variables: &[_]| settled(asked, variables).unwrap_err().to_string();
        assert!(fault(None, &slurm("5", "1", "7", "1", "3")).contains("gaps"));
        assert!(fault(None, &[("SLURM_ARRAY_TASK_ID", "0")]).contains("how many tasks"));
        assert!(fault(None, &[("JOB_COMPLETION_INDEX", "0")]).contains("--shard PARTS"));
        assert!(fault(Some("4"), &[("JOB_COMPLETION_INDEX", "4")]).contains("0 to 3"));
        assert!(fault(Some("4"), &[]).contains("not set"));
        for word in ["0/4", "5/4", "x", "1/", "0", "-1/2"] {
            assert!(word.parse::<Asked>().is_err(), "{word}");
        }
    }

    #[test]
    fn every_job_is_of_one_part() {
        for of in 1..6 {
            for job in 0..40 {
                assert_eq!((0..of).filter(|&index| Shard { index, of }.has(job)).count(), 1);
            }
        }
    }
}
