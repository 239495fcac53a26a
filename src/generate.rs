//! `octroi generate`: manual pages and completions of the command line, for packages.

use anyhow::{Context as _, Result};
use clap_complete::Shell;
use std::{fs, path::Path};

/// Writes `man/` and `completions/` into a directory.
///
/// # Errors
/// When they cannot be written.
pub fn run(mut command: clap::Command, directory: &Path) -> Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for path in [&man, &completions] {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    }
    let failed = || format!("{}: cannot be written", directory.display());
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "octroi", &completions)
            .with_context(failed)?;
    }
    clap_mangen::generate_to(command, &man).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn every_command_has_a_manual_page_and_is_completed() {
        let directory =
            std::env::temp_dir().join(format!("octroi-generate-{}", std::process::id()));
        run(cli::command(), &directory).expect("written");
        let commands = cli::command();
        let mut seen = 0;
        let bash = fs::read_to_string(directory.join("completions/octroi.bash")).expect("bash");
        for command in commands.get_subcommands().filter(|one| !one.is_hide_set()) {
            let name = command.get_name();
            let page = directory.join(format!("man/octroi-{name}.1"));
            let page = fs::read_to_string(&page).expect("a page");
            assert!(page.contains(".SH NAME"), "{name}");
            assert!(bash.contains(name), "{name}");
            seen += 1;
        }
        assert!(seen > 15, "{seen}");
        assert!(directory.join("man/octroi.1").exists());
        fs::remove_dir_all(&directory).expect("removed");
    }
}
