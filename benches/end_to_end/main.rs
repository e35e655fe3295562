//! The whole server from outside: the real binary, one data set, one run.
//!
//! ```text
//! cargo bench --bench end_to_end -- --data DIR [--shards N] [--cores N] [--only load,search,…]
//! ```
//!
//! `DIR` holds `base.npy`, `queries.npy` and `gt_ids.npy` (row numbers of the exact neighbours), and may hold
//! `texts.jsonl.gz`, `filters.json` and `gt_filter_*.npy`. Prints one line per figure. Times depend on the machine and
//! its other load: compare within one run.

#![expect(clippy::print_stdout, reason = "figures are its output")]

#[path = "../../tests/common/mod.rs"]
mod common;
mod data;
mod figures;

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// The data set
    #[arg(long)]
    data: Option<PathBuf>,
    /// Shards of the server
    #[arg(long, default_value_t = 0)]
    shards: usize,
    /// Cores of the server
    #[arg(long, default_value_t = 0)]
    cores: usize,
    /// Rows to load, from the first on
    #[arg(long, default_value_t = usize::MAX)]
    rows: usize,
    /// Beam widths to search with
    #[arg(long, value_delimiter = ',', default_value = "10,20,30,50,100,200")]
    ef: Vec<u32>,
    /// Figures to take
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "load,search,filter,insert,mixed,overload,snapshot,backup,restart,disk"
    )]
    only: Vec<String>,
    /// Searches a second beside writers (figure `writers`)
    #[arg(long, value_delimiter = ',', default_value = "500,1500")]
    searches: Vec<u32>,
    /// Upserts a second offered beside them
    #[arg(long, value_delimiter = ',', default_value = "0,250,500,1000,1500,2000,4000")]
    upserts: Vec<u32>,
    /// Length of each row of `writers`, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// A process that always wants a CPU runs beside `writers`
    #[arg(long)]
    busy: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(directory) = arguments.data.clone().or_else(|| common::dataset("wordnet384")) else {
        println!("no data set: give one with `cargo bench --bench end_to_end -- --data DIR`");
        return;
    };
    let data = data::Data::read(&directory, arguments.rows);
    figures::run(&arguments, &data);
}
