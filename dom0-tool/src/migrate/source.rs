//! The guest at the source after the attempt. It is watched until it runs, not assumed to
//! run.

use std::io;
use std::time::Duration;

use lull_agents::emulated::Emulated;
use lull_agents::name::{self, Name};
use lull_xen::{self as xen, DomId, DomainState, domain::Resumed};

/// Time that a suspended guest may take to be resumed by another process. xl starts its
/// resume only after it has waited two seconds for its transport.
const LATE: Duration = Duration::from_secs(5);

/// Time without CPU use after which a guest counts as idle and is not watched further.
const IDLE: Duration = Duration::from_secs(2);

/// Interval between two checks of the guest.
const PAUSE: Duration = Duration::from_millis(50);

/// The source host's hypervisor, as far as this module needs it.
pub trait Source {
    /// The guest's state; `None` when the domain does not exist.
    fn state(&self) -> io::Result<Option<DomainState>>;
    /// Resumes a suspended guest.
    fn resume(&self) -> io::Result<Resumed>;
    /// Gives the guest, which stays, its own name back if xl has left it under another.
    fn give_name_back(&self, name: &str) -> io::Result<Name>;
}

/// A guest on this host.
#[derive(Debug, Clone, Copy)]
pub struct OnXen(pub DomId);

impl Source for OnXen {
    fn state(&self) -> io::Result<Option<DomainState>> {
        xen::state(self.0)
    }

    fn resume(&self) -> io::Result<Resumed> {
        let mut emulated = Emulated::of(self.0)?;
        xen::Xen::open_here()?.resume_suspended(self.0, &mut emulated)
    }

    fn give_name_back(&self, name: &str) -> io::Result<Name> {
        name::give_back(self.0, name, name::TIMEOUT)
    }
}

/// The guest's state as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It used CPU time while watched, or was idle and free to run.
    Running,
    /// It was left suspended; this module resumed it, and it runs.
    Rescued,
    /// It will never run again, for this reason (a verb phrase).
    Dead(String),
    /// It does not run, or could not be watched, for this reason (a verb phrase).
    NotRunning(String),
}

/// Whether a guest that is found suspended may be resumed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescue {
    /// The destination was never told to start it.
    Allowed,
    /// It may run at the destination.
    Forbidden,
}

/// Whether a guest that is reported as moved runs here still, or again. A guest does not
/// run here if its domain is gone or dying, or was left suspended.
pub fn runs_on(source: &dyn Source) -> bool {
    let is_free = || {
        let state = source.state();
        matches!(state, Ok(Some(state)) if state.shutdown.is_none() && state.death().is_none())
    };
    // xl may be destroying the domain at this moment.
    is_free() && {
        std::thread::sleep(PAUSE);
        is_free()
    }
}

/// Watches the guest until it is seen to run, for a bounded time.
pub fn watch(source: &dyn Source, rescue: Rescue) -> Seen {
    watch_paced(source, rescue, PAUSE, LATE, IDLE)
}

fn watch_paced(
    source: &dyn Source,
    rescue: Rescue,
    pause: Duration,
    late: Duration,
    idle: Duration,
) -> Seen {
    match wait_until_running(source, pause, late, idle) {
        Wait::Running => Seen::Running,
        Wait::Dead(why) => Seen::Dead(why),
        Wait::No(why) => Seen::NotRunning(why),
        Wait::Suspended if rescue == Rescue::Forbidden => {
            Seen::NotRunning("is suspended".to_owned())
        }
        // No other process can resume it: xl and its helper are gone.
        Wait::Suspended => match source.resume() {
            Err(error) => {
                Seen::NotRunning(format!("is suspended, and resuming it failed: {error}"))
            }
            Ok(_) => match wait_until_running(source, pause, late, idle) {
                Wait::Running => Seen::Rescued,
                Wait::Suspended => Seen::NotRunning("is still suspended".to_owned()),
                Wait::Dead(why) => Seen::Dead(why),
                Wait::No(why) => Seen::NotRunning(why),
            },
        },
    }
}

enum Wait {
    Running,
    Suspended,
    Dead(String),
    No(String),
}

fn wait_until_running(
    source: &dyn Source,
    pause: Duration,
    late: Duration,
    idle: Duration,
) -> Wait {
    let mut waited = Duration::ZERO;
    let mut free: Option<(u64, Duration)> = None;
    loop {
        let look = match source.state() {
            Err(error) => return Wait::No(format!("could not be watched: {error}")),
            Ok(None) => return Wait::Dead("is gone".to_owned()),
            Ok(Some(state)) => state,
        };
        if let Some(death) = look.death() {
            return Wait::Dead(death);
        }
        match look.shutdown {
            Some(_) => {
                free = None;
                if waited >= late {
                    return Wait::Suspended;
                }
            }
            None if look.paused => {
                free = None;
                if waited >= late {
                    return Wait::No("is paused".to_owned());
                }
            }
            None => match free {
                None => free = Some((look.cpu_time_ns, waited)),
                Some((cpu, _)) if look.cpu_time_ns > cpu => return Wait::Running,
                Some((_, since)) if waited - since >= idle => return Wait::Running,
                Some(_) => {}
            },
        }
        std::thread::sleep(pause);
        waited += pause;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::{Cell, RefCell};

    use lull_xen::device_model::Devices;

    use super::*;

    /// A guest that shows one state after another, and then keeps the last one.
    pub struct Script {
        pub states: RefCell<Vec<Option<DomainState>>>,
        pub resumed: Cell<u32>,
    }

    impl Script {
        pub fn new(states: &[Option<DomainState>]) -> Self {
            let mut states = states.to_vec();
            states.reverse();
            Self {
                states: RefCell::new(states),
                resumed: Cell::new(0),
            }
        }
    }

    impl Source for Script {
        fn state(&self) -> io::Result<Option<DomainState>> {
            let mut states = self.states.borrow_mut();
            if states.len() > 1 {
                return Ok(states.pop().expect("more than one"));
            }
            Ok(states[0])
        }

        fn resume(&self) -> io::Result<Resumed> {
            self.resumed.set(self.resumed.get() + 1);
            *self.states.borrow_mut() = vec![Some(state(2)), Some(state(1))];
            Ok(Resumed::Yes {
                at: std::time::Instant::now(),
                devices: Devices::None,
                known: true,
            })
        }

        fn give_name_back(&self, _: &str) -> io::Result<Name> {
            Ok(Name::Own)
        }
    }

    pub fn state(cpu_time_ns: u64) -> DomainState {
        DomainState {
            cpu_time_ns,
            ..DomainState::IDLE
        }
    }

    fn suspended() -> DomainState {
        DomainState {
            shutdown: Some(2),
            ..DomainState::IDLE
        }
    }

    fn look(script: &Script, rescue: Rescue) -> Seen {
        let ms = Duration::from_millis;
        watch_paced(script, rescue, ms(1), ms(10), ms(10))
    }

    #[test]
    fn a_guest_that_uses_cpu_runs() {
        let script = Script::new(&[Some(state(1)), Some(state(2))]);
        assert_eq!(look(&script, Rescue::Forbidden), Seen::Running);
    }

    #[test]
    fn an_idle_guest_that_may_run_runs() {
        let script = Script::new(&[Some(state(1))]);
        assert_eq!(look(&script, Rescue::Forbidden), Seen::Running);
    }

    #[test]
    fn a_late_resume_by_xl_is_waited_for() {
        let script = Script::new(&[Some(suspended()), Some(suspended()), Some(state(1))]);
        assert_eq!(look(&script, Rescue::Allowed), Seen::Running);
        assert_eq!(script.resumed.get(), 0);
    }

    #[test]
    fn a_guest_nobody_resumes_is_rescued_only_where_that_is_safe() {
        let script = Script::new(&[Some(suspended())]);
        assert_eq!(
            look(&script, Rescue::Forbidden),
            Seen::NotRunning("is suspended".to_owned())
        );
        assert_eq!(script.resumed.get(), 0);
        assert_eq!(look(&script, Rescue::Allowed), Seen::Rescued);
        assert_eq!(script.resumed.get(), 1);
    }

    #[test]
    fn what_does_not_run_is_called_by_its_name() {
        let paused = DomainState {
            paused: true,
            ..DomainState::IDLE
        };
        let crashed = DomainState {
            shutdown: Some(3),
            ..DomainState::IDLE
        };
        for (shown, seen) in [
            (None, Seen::Dead("is gone".to_owned())),
            (Some(paused), Seen::NotRunning("is paused".to_owned())),
            (Some(crashed), Seen::Dead("has crashed".to_owned())),
        ] {
            assert_eq!(look(&Script::new(&[shown]), Rescue::Allowed), seen);
        }
    }
}
