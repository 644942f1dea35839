//! `weft policy`: network policies as code, without a cluster. Reading files, printing reports.

use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};
use weft_model::IpFamilies;
use weft_policy_cli::{Cluster, Documents, Source, compare, limits, lint, matrix, run};

/// Arguments of `weft policy`.
#[derive(Debug, clap::Args)]
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
    },
    /// Show which connections would open and close from one set of manifests to another; exit
    /// status 1 where any does
    Diff {
        /// A file or directory as it was; - for standard input
        before: PathBuf,
        /// A file or directory as it would be
        after: PathBuf,
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
    /// Find what is probably not meant so; exit status 1 where anything is
    Lint {
        /// Files and directories with manifests; - for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// text or json
        #[arg(short, long, default_value = "text", value_name = "FORMAT")]
        output: Output,
    },
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

/// Runs a command; the exit status is 0 only where everything asked for holds.
pub fn run_command(args: Args) -> Result<i32> {
    let (text, good) = match args.command {
        Command::Test { paths, output, verbose } => {
            let cluster = cluster(&paths)?;
            for complaint in &cluster.complaints {
                eprintln!("{complaint}");
            }
            let report = run(&cluster)?;
            let text = match output {
                TestOutput::Text => report.text(verbose),
                TestOutput::Json => json(&report)?,
                TestOutput::Junit => report.junit(),
            };
            (text, report.ok)
        }
        Command::Diff { before, after, with, output, ip_family } => {
            let side = |path: PathBuf| cluster(&[&with[..], &[path]].concat());
            let (before, after) = (side(before)?, side(after)?);
            let comparison = compare(&before, &after, ip_family).map_err(anyhow::Error::msg)?;
            let text = match output {
                Output::Text => comparison.text(),
                Output::Json => json(&comparison)?,
            };
            (text, comparison.same)
        }
        Command::Matrix { paths, output, ip_family } => {
            let matrix = matrix(&cluster(&paths)?, ip_family).map_err(anyhow::Error::msg)?;
            let text = match output {
                MatrixOutput::Text => matrix.text(),
                MatrixOutput::Json => json(&matrix)?,
                MatrixOutput::Dot => matrix.dot(),
            };
            (text, true)
        }
        Command::Lint { paths, output } => {
            let notes = lint(&cluster(&paths)?);
            let text = match output {
                Output::Text => notes.iter().map(|n| n.text() + "\n").collect(),
                Output::Json => json(&notes)?,
            };
            (text, notes.is_empty())
        }
    };
    print!("{text}");
    Ok(i32::from(!good))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn cluster(paths: &[PathBuf]) -> Result<Cluster> {
    let mut sources = Vec::new();
    for path in paths {
        read(path, &mut sources)?;
    }
    Ok(Cluster::of(Documents::parse(sources)?)?)
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
