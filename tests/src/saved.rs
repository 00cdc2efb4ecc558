//! HVM guests that boot once and are restored as often as they are needed, because they boot
//! slowly.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::guest::{Guest, GuestSpec};
use crate::host::Host;
use crate::ssh::quote;
use crate::timeline::Timeline;

/// The longest time that a guest may take to be saved or restored.
const SAVING: Duration = Duration::from_secs(300);

/// The part of its disk that a guest uses, from the start, in MiB.
const USED: u32 = 1;

/// An HVM guest that was saved to a file, and what its disk held then.
pub struct SavedGuest {
    guest: Guest,
    /// The block device in dom0 that is its disk.
    disk: String,
}

impl SavedGuest {
    /// Installs the device model, makes the guest and saves it.
    ///
    /// # Errors
    /// When the guest has no disk, does not boot or cannot be saved.
    pub fn make(host: &Host, spec: &GuestSpec) -> Result<Self> {
        let disk = spec.disk.as_deref().and_then(|disk| {
            let (device, _) = disk.strip_prefix("phy:")?.split_once(',')?;
            Some(device.to_owned())
        });
        let disk = disk.context("its disk is no block device")?;
        host.install_device_model()?;
        let guest = host.create_guest(spec)?;
        let timeline = Timeline::start();
        let save = format!("xl save {} {}", quote(guest.name()), file(&guest));
        host.run_for(&save, SAVING)?.checked()?;
        let saved = Self { guest, disk };
        saved.copy(&saved.disk, &saved.contents(), "iflag=direct")?;
        timeline.phase("HVM guest saved");
        Ok(saved)
    }

    /// Restores the guest as it was saved, and its disk, in which it would miss what it wrote
    /// otherwise. No other guest may have its name.
    ///
    /// # Errors
    /// When the guest is not restored, or does not answer.
    pub fn restore(&self) -> Result<Guest> {
        self.copy(&self.contents(), &self.disk, "oflag=direct")?;
        let restore = format!("xl restore {}", file(&self.guest));
        self.guest.host().run_for(&restore, SAVING)?.checked()?;
        self.guest.status()?;
        Ok(self.guest.clone())
    }

    /// Copies what the guest uses of its disk, past dom0's page cache.
    fn copy(&self, from: &str, to: &str, flags: &str) -> Result<()> {
        let copy = format!("dd if={from} of={to} bs=1M count={USED} conv=notrunc {flags}");
        self.guest.host().run(&copy)?.checked()?;
        Ok(())
    }

    fn contents(&self) -> String {
        quote(&format!("/run/rig/{}.disk", self.guest.name()))
    }
}

fn file(guest: &Guest) -> String {
    quote(&format!("/run/rig/{}.saved", guest.name()))
}
