//! The program that runs as PID 1 of a test guest.

use anyhow::Result;
use lull_guest::{boot, disk::Disk, machine::Machine, screen::Screen, server::Model};

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
    let disks = settings.disks.iter().map(|disk| Disk::open(disk));
    let disks = disks.collect::<Result<Vec<_>, _>>()?;
    let screen = settings.has_screen.then(Screen::open).transpose()?;
    Model::new(settings.reserve_pages, disks, Machine::found()?, screen).run()
}
