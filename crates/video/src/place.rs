//! Checks of an output's path before the run.

use super::fault::usage;
use super::partial::{destination, exists};
use super::partial_dir::check_content;
use super::{Format, Output};
use anyhow::Result;
use std::fs;
use std::io;
use std::path::Path;
use vidgen_base::disk::{Partial, check_name, parent};

/// Everything about the place of an output that can be known before the run: that it can be created, and that nothing
/// is there which must stay.
pub(super) fn check_place(output: &Output) -> Result<()> {
    let shown = output.path.display();
    if output.format == Format::Y4mStdout {
        use std::io::IsTerminal;
        return if io::stdout().is_terminal() {
            Err(usage("standard output is a terminal: pipe the y4m into a program, or give -o FILE".into()))
        } else {
            Ok(())
        };
    }
    check_name(&output.path).map_err(|cause| usage(format!("{shown}: {cause}")))?;
    let target = destination(&output.path);
    match fs::metadata(&target) {
        Ok(found) if output.format == Format::PngDir => {
            if !found.is_dir() {
                return Err(usage(format!("{shown} is a file and not a directory: choose another name")));
            }
            check_content(output, &target)?;
            return check_writable(&target, &target.join("trial"));
        }
        Ok(found) if found.is_dir() => return Err(usage(format!("{shown} is a directory: name a file in it"))),
        Ok(found) if !found.is_file() => {
            return Err(usage(format!(
                "{shown} is no regular file: choose another name, or write y4m to a pipe with -o -"
            )));
        }
        Ok(_) if !output.overwrite => return Err(exists(output)),
        Ok(_) => {}
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(usage(format!("cannot write {shown}: {cause}"))),
    }
    let directory = parent(&target);
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => {
            return Err(usage(format!("cannot write {shown}: {} is not a directory", directory.display())));
        }
        Ok(_) => {}
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return Err(usage(format!(
                "cannot write {shown}: the directory {} does not exist; create it first",
                directory.display()
            )));
        }
        Err(cause) => return Err(usage(format!("cannot write {shown}: {cause}"))),
    }
    check_writable(directory, &target)
}

/// Creates a file beside `target` and removes it: the only answer that covers modes, read-only mounts and quotas.
fn check_writable(directory: &Path, target: &Path) -> Result<()> {
    Partial::file(target).map(drop).map_err(|cause| usage(format!("cannot write in {}: {cause}", directory.display())))
}
