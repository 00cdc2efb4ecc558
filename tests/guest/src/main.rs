//! The program that runs as PID 1 of a test guest.

use anyhow::Result;
use lull_guest::{boot, disk::Disk, machine::Machine, server::Model};

fn main() {
    if let Err(error) = start() {
        eprintln!("lull-guest: {error:#}");
    }
    // PID 1 must not exit, because that would look like a crash of the product.
    loop {
        std::thread::park();
    }
}

fn start() -> Result<()> {
    let settings = boot::bring_up()?;
    let disk = settings.disk.as_deref().map(Disk::open).transpose()?;
    Model::new(settings.reserve_pages, disk, Machine::found()?).run()
}
