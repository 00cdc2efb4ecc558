//! The processes that xl, libxl and lull start. libxl's save
//! [`helper`] hosts the engine, with a guard that outlives it; the [`transport`] carries xl's
//! connection; [`land`] waits at the destination. They are looked at and steered through a
//! [`control`] socket. The [`spoolers`] write what is kept of an attempt, and [`vif`] attaches
//! guests' network interfaces. What an attempt must leave as it found it: the process that
//! carries out the guest's next reboot ([`monitor`]), and the guest's name ([`name`]).

#![forbid(unsafe_code)]

pub mod control;
pub mod emulated;
pub mod helper;
pub mod land;
pub mod monitor;
pub mod name;
pub mod spoolers;
pub mod transport;
pub mod urgency;
pub mod vif;
