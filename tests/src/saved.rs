//! HVM guests that boot once and are restored as often as they are needed, because they boot
//! slowly.

use std::time::Duration;

use anyhow::Result;

use crate::guest::{Guest, GuestSpec};
use crate::host::Host;
use crate::ssh::quote;
use crate::timeline::Timeline;

/// The longest time that a guest may take to be saved or restored.
const SAVING: Duration = Duration::from_secs(300);

/// An HVM guest that was saved to a file.
pub struct SavedGuest {
    guest: Guest,
}

impl SavedGuest {
    /// Installs the device model, makes the guest and saves it.
    ///
    /// # Errors
    /// When the guest does not boot or cannot be saved.
    pub fn make(host: &Host, spec: &GuestSpec) -> Result<Self> {
        host.install_device_model()?;
        let guest = host.create_guest(spec)?;
        let timeline = Timeline::start();
        let save = format!("xl save {} {}", quote(guest.name()), file(&guest));
        host.run_for(&save, SAVING)?.checked()?;
        timeline.phase("HVM guest saved");
        Ok(Self { guest })
    }

    /// Restores the guest as it was saved. No other guest may have its name.
    ///
    /// # Errors
    /// When the guest is not restored, or does not answer.
    pub fn restore(&self) -> Result<Guest> {
        let restore = format!("xl restore {}", file(&self.guest));
        self.guest.host().run_for(&restore, SAVING)?.checked()?;
        self.guest.status()?;
        Ok(self.guest.clone())
    }
}

fn file(guest: &Guest) -> String {
    quote(&format!("/run/rig/{}.saved", guest.name()))
}
