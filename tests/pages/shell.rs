//! Commands that a shell runs one after the other, and what each printed.

use anyhow::{Result, bail, ensure};

/// What stands before the number of each command in the output.
pub const MARK: &str = "@@ ";

/// A script of bash: `before`, then each command, of which one that fails is the last.
pub fn script<C: AsRef<str>>(before: &str, commands: impl IntoIterator<Item = C>) -> String {
    let mut script = format!("exec 2>&1\n{before}\n");
    for (number, command) in commands.into_iter().enumerate() {
        let command = command.as_ref();
        script += &format!(
            "echo '{MARK}{number}'\n{command}\n_ended=$?; if [ $_ended -ne 0 ]; then echo \"{MARK}failed: $_ended\"; exit; fi\n"
        );
    }
    script + &format!("echo '{MARK}end'\n")
}

/// What each command printed. `names`: what they are called in errors.
///
/// # Errors
/// The command that failed, or that the script did not come to its end; with all that was printed.
pub fn printed<'o>(output: &'o str, names: &[String]) -> Result<Vec<&'o str>> {
    let mut printed = Vec::new();
    for part in output.split(MARK).skip(1) {
        let (head, text) = part.split_once('\n').unwrap_or((part, ""));
        if head == "end" {
            let (done, all) = (printed.len(), names.len());
            ensure!(done == all, "{done} of {all} steps:\n{output}");
            return Ok(printed);
        }
        let Ok(_) = head.parse::<usize>() else {
            let last = printed
                .len()
                .checked_sub(1)
                .and_then(|last| names.get(last));
            bail!(
                "{}: {head}\n{output}",
                last.map_or("before the first", String::as_str)
            );
        };
        printed.push(text);
    }
    bail!("it did not come to its end:\n{output}")
}
