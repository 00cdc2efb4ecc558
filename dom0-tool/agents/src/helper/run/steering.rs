//! Requests that arrive over the control socket.

use lull_base::bandwidth::Bandwidth;
use lull_core::limits::{DowntimeLimit, Timeout};
use lull_core::units::Micros;
use lull_engine::OperatorRequest;
use lull_wire::control::{Answer, Phase, Request};
use lull_wire::events::Event;

use super::Helper;

impl Helper<'_> {
    /// Serves the clients of the control socket.
    pub(super) fn serve_control(&mut self) {
        let Some(control) = &mut self.control else {
            return;
        };
        let Some(request) = control.turn() else {
            return;
        };
        let answer = match request {
            Request::Cancel => match control.phase() {
                Phase::Finishing | Phase::Landing | Phase::Ended if self.front_end.is_none() => {
                    Answer::Refused {
                        why: "too late to cancel: the destination has the guest's pages, and its \
                              state is on the way"
                            .into(),
                    }
                }
                _ => {
                    self.cancelled = true;
                    Answer::Done {
                        said: "cancelling; waiting until everything is undone".into(),
                    }
                }
            },
            Request::Set {
                max_suspend_us: Some(_),
                ..
            } if self.left_paused => Answer::Refused {
                why: "a guest that is left paused (`lull migrate -p`) keeps no limit on its pause"
                    .into(),
            },
            Request::Set {
                max_suspend_us,
                timeout_us,
                bandwidth,
            } => {
                let request = OperatorRequest::Limits {
                    max_suspend: max_suspend_us.and_then(|us| DowntimeLimit::new(Micros(us))),
                    timeout: timeout_us.and_then(|us| Timeout::new(Micros(us))),
                    bandwidth: bandwidth.map(Bandwidth::from_bytes),
                };
                self.request = Some(request);
                return;
            }
            Request::SwitchNow => {
                self.request = Some(OperatorRequest::SwitchNow);
                return;
            }
            // The server answers these itself.
            Request::Status | Request::Watch => return,
        };
        control.answer(answer);
        if self.cancelled
            && let Some(front_end) = &mut self.front_end
        {
            // The front end records who asked, and passes the cancellation on to the transport.
            front_end.emit(Event::CancelAsked);
        }
    }
}
