//! The millstream binary: `run`, `sql`, `check`, `status`, `demo`.

mod check;
mod connectors;
mod demo;
mod exit;
mod live;
mod out;
mod run;
mod signals;
mod sql;
mod status;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::out::complain;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exactly-once stream processing on Apache DataFusion.
#[derive(Parser)]
#[command(name = "millstream", version, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    /// Run the queries of a file until their input ends, or for ever where a source follows.
    Run(run::Run),
    /// Answer a SELECT over files and declared tables; without -c, a prompt.
    Sql(sql::Sql),
    /// Say of every query what it keeps, what its sink guarantees and how exact it is, or what is wrong with it.
    Check(check::Check),
    /// Show what a stopped or running pipeline has done.
    Status(status::Status),
}

/// An expression is walked by recursion, also where batches run. Only what is used of a stack takes memory.
const STACK_BYTES: usize = 64 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain!("error: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Demo(demo) => demo.run().await,
            Command::Run(run) => run.run().await,
            Command::Sql(sql) => sql.run().await,
            Command::Check(check) => check.run().await,
            Command::Status(status) => status.run(),
        }
    });
    // A task that still waits for a file system event must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("error: {error}");
            exit::code(error.kind())
        }
    }
}
