//! Counting what tests say.

/// Totals of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Skipped, each with a line that names it.
    pub skipped: usize,
}

impl Tally {
    /// Reads the output of one libtest binary run with `--show-output`: its result line, less
    /// the tests that said `SKIP name: why`.
    pub fn of_libtest(output: &str) -> Option<Self> {
        let line = output.lines().rev().find(|l| l.starts_with("test result:"))?;
        let count = |what: &str| {
            let before = line.split(&format!(" {what}")).next()?;
            before.rsplit([' ', '.']).next()?.parse::<usize>().ok()
        };
        let skipped = skips(output).count();
        Some(Self {
            passed: count("passed")?.saturating_sub(skipped),
            failed: count("failed")?,
            // A process that a test starts from its own binary is marked so; it is no test.
            skipped: skipped + count("ignored")?.saturating_sub(helpers(output)),
        })
    }

    /// Adds another run.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// The outcome of one step that is no libtest binary.
    pub fn step(ok: bool) -> Self {
        Self { passed: usize::from(ok), failed: usize::from(!ok), skipped: 0 }
    }
}

/// Entries of the kind `#[ignore = "run by …"]`.
fn helpers(output: &str) -> usize {
    output.lines().filter(|l| l.contains(" ... ignored, run by ")).count()
}

/// The names of the tests that failed, from the list before the result line.
pub fn failures(output: &str) -> Vec<&str> {
    let Some((_, list)) = output.rsplit_once("\nfailures:\n") else { return Vec::new() };
    list.lines().map_while(|l| l.strip_prefix("    ")).collect()
}

/// The lines `SKIP name: why`.
pub fn skips(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter(|l| l.starts_with("SKIP "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_named() {
        let output = "\nfailures:\n\n---- a::b stdout ----\n    not a name\n\nfailures:\n    a::b\n    c\n\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(failures(output), ["a::b", "c"]);
        assert!(failures("killed").is_empty());
    }

    #[test]
    fn a_skip_is_no_pass() {
        let output = "running 3 tests\nSKIP a: needs root\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let t = Tally::of_libtest(output).expect("a result line");
        assert_eq!(t, Tally { passed: 2, failed: 0, skipped: 2 });
        let with_helper = output.replace("running", "test h ... ignored, run by a\nrunning");
        assert_eq!(Tally::of_libtest(&with_helper).map(|t| t.skipped), Some(1));
        assert_eq!(Tally::of_libtest("killed"), None);
    }
}
