//! What ends without warning, or makes way for a new version, under constant load: an instance, the
//! server.

mod instance;
mod server;

use anyhow::Result;
use clap::Args;

use crate::{image, machine, minato, patience::Patience, processes::expect_root, promises::Promises};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Instances that are killed
    #[arg(long, default_value_t = 50)]
    instances: usize,
    /// Times that the server is killed; 0 leaves it out
    #[arg(long, default_value_t = 5)]
    servers: usize,
    /// Times that a new server takes over; 0 leaves it out
    #[arg(long, default_value_t = 10)]
    upgrades: usize,
    /// Instances that run while the server is killed or replaced, in tens
    #[arg(long, default_value_t = 20)]
    tens: usize,
    /// Requests a second
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick {
            let few = |count: usize| count.min(2);
            Self {
                instances: few(self.instances),
                servers: few(self.servers),
                upgrades: few(self.upgrades),
                tens: 2,
                rate: 200,
            }
        } else {
            self
        }
    }
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    expect_root()?;
    let program = minato::program()?;
    let folder = image::workshop()?;
    println!("{}\n", machine::line());
    let mut promises = Promises::default();
    if arguments.instances > 0 {
        promises.extend(instance::run(arguments, patience, &program, folder.path())?);
    }
    if arguments.servers + arguments.upgrades > 0 {
        promises.extend(server::run(arguments, patience, &program, folder.path())?);
    }
    Ok(promises)
}
