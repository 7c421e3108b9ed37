//! Arguments of `sdtrain launch` and `sdtrain env`.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use clap::Args;
use sdtrain_ranks::ProcessesPerNode;

/// Arguments of `sdtrain env`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct EnvArgs {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sdtrain launch`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct LaunchArgs {
    /// How many processes to start on this machine: a number, `gpu` for one on each GPU, `cpu` for one on each processor, or `auto` for
    /// one on each GPU and a single one without any [default: $PET_NPROC_PER_NODE, or auto]
    #[arg(long, value_name = "N|gpu|cpu|auto")]
    pub nproc: Option<ProcessesPerNode>,

    /// How many machines take part, each with a launcher of its own [default: $PET_NNODES, the tasks of `srun`, or 1]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..))]
    pub nnodes: Option<u32>,

    /// Which of these machines this is, from 0 on [default: $PET_NODE_RANK, or the task's number]
    #[arg(long, value_name = "K")]
    pub node_rank: Option<u32>,

    /// Host of machine 0 and a free port there, where all processes meet [default: $PET_MASTER_ADDR and $PET_MASTER_PORT, or SLURM's
    /// first host; on a single machine 127.0.0.1 and any free port]
    #[arg(long, value_name = "HOST:PORT")]
    pub master: Option<Address>,

    /// How often all processes are started again after one has failed; they continue from the newest checkpoint
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub restarts: u32,

    /// How many seconds rank 0 has to end what it saves, once another rank has failed and it was told to end; then it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub grace: u64,

    /// What each process is to do, as `train --config FILE`; `train` can be left out
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or number of a machine.
    pub host: String,
    /// A port there.
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        const FORM: &str = "it is `HOST:PORT`, as `node0:29500` or `[fd00::1]:29500`";
        let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains([':', '[', ']']) {
            return Err(FORM.to_owned());
        }
        match (bare.unwrap_or(host), port.parse()) {
            ("", _) | (_, Ok(0) | Err(_)) => Err(FORM.to_owned()),
            (host, Ok(port)) => Ok(Address { host: host.to_owned(), port }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}
