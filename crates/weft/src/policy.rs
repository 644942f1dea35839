//! `weft policy`: network policies as code, from files, a cluster's state, or packets in a lab.
//! Reading, printing.

mod live;
mod packets;

use crate::explain;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};
use weft_model::IpFamilies;
use weft_policy_cli::{
    Cluster, Documents, Report, Source, compare, limits, lint, matrix, observed, run,
};

/// Arguments of `weft policy`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 where it holds (test), nothing changes (diff), nothing is found \
                  (lint), or every node has the newest without complaints (status); 1 where not; \
                  2 where that cannot be said. matrix: 0 or 2."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check expectations (documents of kind PolicyTest) against manifests
    Test {
        /// Files and directories with manifests and expectations; - for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// text, json or junit
        #[arg(short, long, default_value = "text", value_name = "FORMAT")]
        output: TestOutput,
        /// Show the expectations that hold as well
        #[arg(short, long)]
        verbose: bool,
        /// Judge with real packets in a running lab, by the policies that it has; of the files
        /// only the expectations count (needs root)
        #[arg(long)]
        lab: bool,
        #[command(flatten)]
        at: live::Where,
    },
    /// Show which connections would open and close from one set of manifests to another
    Diff {
        /// Two files or directories, as it was and as it would be; with --cluster, what would be
        /// applied; - for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// Compare a cluster as it is with the cluster after the files are applied
        #[arg(long, conflicts_with = "with")]
        cluster: bool,
        #[command(flatten)]
        at: live::Where,
        /// Manifests that belong to both, such as the workloads; may be repeated
        #[arg(long, value_name = "FILE|DIR")]
        with: Vec<PathBuf>,
        /// text or json
        #[arg(short, long, default_value = "text", value_name = "FORMAT")]
        output: Output,
        /// ipv4, ipv6 or dual
        #[arg(long, default_value = "ipv4")]
        ip_family: IpFamilies,
    },
    /// Show who may talk to whom
    Matrix {
        /// Files and directories with manifests; - for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// text, json or dot (for Graphviz)
        #[arg(short, long, default_value = "text", value_name = "FORMAT")]
        output: MatrixOutput,
        /// ipv4, ipv6 or dual
        #[arg(long, default_value = "ipv4")]
        ip_family: IpFamilies,
    },
    /// Find what is probably not meant so
    Lint {
        /// Files and directories with manifests; - for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// text or json
        #[arg(short, long, default_value = "text", value_name = "FORMAT")]
        output: Output,
    },
    /// Show what is in force on each node, whom policies select and how often rules decided; exit
    /// status 0 only where every node has the newest, without complaints
    Status(crate::policy_status::StatusArgs),
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TestOutput {
    Text,
    Json,
    Junit,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum MatrixOutput {
    Text,
    Json,
    Dot,
}

/// What the exit statuses mean, as diff(1) and grep(1) have them: yes, no, cannot say.
const NO: i32 = 1;
const CANNOT_SAY: i32 = 2;

/// Runs a command. The exit status is 0 only where everything asked for holds, 1 where it does
/// not, and 2 where that cannot be said, because something cannot be read or is not judged as it
/// is written.
pub fn run_command(args: Args) -> Result<i32> {
    match answer(args.command) {
        Ok(Answer { text, problems, good }) => {
            for problem in &problems {
                // A reader that went away misses them as it misses the answer.
                let _ = writeln!(std::io::stderr(), "{problem}");
            }
            explain::say(text.trim_end_matches('\n'))?;
            Ok(match (problems.is_empty(), good) {
                (false, _) => CANNOT_SAY,
                (true, false) => NO,
                (true, true) => 0,
            })
        }
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e:#}");
            Ok(CANNOT_SAY)
        }
    }
}

/// What a command says.
struct Answer {
    /// On standard output.
    text: String,
    /// On standard error: why the answer is not to be relied on.
    problems: Vec<String>,
    /// Whether it is yes.
    good: bool,
}

fn answer(command: Command) -> Result<Answer> {
    Ok(match command {
        Command::Status(args) => {
            let (text, problems, good) = crate::policy_status::answer(args)?;
            Answer { text, problems, good }
        }
        Command::Test { paths, output, verbose, lab, at } => {
            let report = match lab {
                true => in_lab(&at, documents(&paths)?)?,
                false => run(&cluster(&paths)?)?,
            };
            let text = match output {
                TestOutput::Text => report.text(verbose),
                TestOutput::Json => json(&report)?,
                TestOutput::Junit => report.junit(),
            };
            Answer { text, good: report.holds(), problems: report.problems }
        }
        Command::Diff { paths, cluster, at, with, output, ip_family } => {
            let (before, after) = match (cluster, &paths[..]) {
                (true, files) => {
                    let live = at.objects()?;
                    let after = live.with(&documents(files)?);
                    (live, after)
                }
                (false, [before, after]) => {
                    let side = |path: &PathBuf| {
                        documents(&[&with[..], std::slice::from_ref(path)].concat())
                    };
                    (side(before)?, side(after)?)
                }
                (false, _) => bail!("give two files or directories, or --cluster"),
            };
            let (before, after) = Cluster::pair(before, after)?;
            let comparison = compare(&before, &after, ip_family).map_err(anyhow::Error::msg)?;
            let text = match output {
                Output::Text => comparison.text(),
                Output::Json => json(&comparison)?,
            };
            Answer { text, good: comparison.same, problems: comparison.problems }
        }
        Command::Matrix { paths, output, ip_family } => {
            let matrix = matrix(&cluster(&paths)?, ip_family).map_err(anyhow::Error::msg)?;
            let text = match output {
                MatrixOutput::Text => matrix.text(),
                MatrixOutput::Json => json(&matrix)?,
                MatrixOutput::Dot => matrix.dot(),
            };
            Answer { text, good: true, problems: matrix.problems }
        }
        Command::Lint { paths, output } => {
            // What cannot be read is what this command looks for.
            let notes = lint(&cluster(&paths)?);
            let text = match output {
                Output::Text => notes.iter().map(|n| n.text() + "\n").collect(),
                Output::Json => json(&notes)?,
            };
            Answer { text, good: notes.is_empty(), problems: Vec::new() }
        }
    })
}

/// Judges expectations with real packets, by what the lab's API has.
fn in_lab(at: &live::Where, files: Documents) -> Result<Report> {
    let lab = at.lab()?;
    let objects = live::objects(&lab.kubeconfig())?;
    let packets = packets::LabPackets::new(lab, &objects)?;
    let cluster = Cluster::of(objects.with(&files.of_kind("PolicyTest")))?;
    let cluster = cluster.with_outside(packets.outside.clone());
    let tries = observed::tries(&cluster)?;
    let seen = packets.send(&tries.all())?;
    Ok(observed::judge(&cluster, &tries, &seen)?)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn cluster(paths: &[PathBuf]) -> Result<Cluster> {
    Ok(Cluster::of(documents(paths)?)?)
}

fn documents(paths: &[PathBuf]) -> Result<Documents> {
    let mut sources = Vec::new();
    for path in paths {
        read(path, &mut sources)?;
    }
    Ok(Documents::parse(sources)?)
}

/// Reads a file, or every YAML and JSON file below a directory, in the order of names.
fn read(path: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let shown = || path.display().to_string();
    if path == Path::new("-") {
        let mut text = String::new();
        let bound = limits::FILE_BYTES_MAX as u64 + 1;
        std::io::stdin().take(bound).read_to_string(&mut text).context("read standard input")?;
        sources.push(Source { name: "-".into(), text: text.into() });
        return Ok(());
    }
    let meta = fs::metadata(path).with_context(shown)?;
    if meta.is_dir() {
        let entries = fs::read_dir(path).with_context(shown)?;
        let entries = entries.collect::<Result<Vec<_>, _>>().with_context(shown)?;
        let mut below: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).collect();
        below.sort();
        for entry in below {
            let hidden = entry.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            let wanted =
                entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            // A link to a directory may lead back here.
            let directory = entry.is_dir() && !entry.is_symlink();
            if !hidden && (directory || wanted) {
                read(&entry, sources)?;
            }
        }
        return Ok(());
    }
    if meta.len() > limits::FILE_BYTES_MAX as u64 || sources.len() >= limits::FILES_MAX {
        bail!(
            "{}: at most {} files of {} bytes each",
            path.display(),
            limits::FILES_MAX,
            limits::FILE_BYTES_MAX
        );
    }
    let text = fs::read_to_string(path).with_context(shown)?;
    sources.push(Source { name: path.display().to_string().into(), text: text.into() });
    Ok(())
}
