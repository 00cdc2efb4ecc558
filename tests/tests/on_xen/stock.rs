//! Operations that lull must leave alone, and stock Xen by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::timeline::Timeline;

use crate::aftermath;
use crate::world::World;

const LIMIT: Duration = Duration::from_secs(200);

/// As the save helper lull hands plain saves and restores over to the stock helper.
pub fn save_and_restore(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let before = guest.domid()?;
    world
        .host
        .run_for(
            "export LIBXL_SAVE_HELPER=/usr/local/bin/lull; cd /run/rig && \
             xl save busy saved && ! xl domid busy 2>/dev/null && xl restore saved; \
             s=$?; rm -f saved; exit $s",
            LIMIT,
        )?
        .checked()?;
    ensure!(guest.domid()? != before, "it was not saved");
    aftermath::check_whole(&world.host, &guest)
}

/// Runs without lull: this measures and checks the rig.
pub fn migration(world: &mut World) -> Result<()> {
    let timeline = Timeline::start();
    let guest = world.guest()?;
    let host = &world.host;
    let observer = host.observe(&guest)?;
    let source = guest.domid()?;
    let mut migration =
        host.spawn("xl migrate -s '' busy 'rig-agent throttle 16000000 -- xl migrate-receive'")?;
    let mut logged = false;
    while !logged && migration.wait(Duration::from_secs(1))?.is_none() {
        logged = host.log_dirty_state(source)? == Some(true);
    }
    ensure!(logged, "dirty logging never seen during a migration");
    migration
        .wait(LIMIT)?
        .context("xl migrate does not end")?
        .checked()?;
    let outages = observer.stop()?;
    timeline.phase(format_args!(
        "outage {:.0} ms, {} pings lost, dom0 stalled {:.0} ms at most",
        outages.longest_ms, outages.lost, outages.dom0_stall_ms
    ));
    ensure!(outages.lost > 0, "no outage was seen: {outages:?}");
    aftermath::check_whole(host, &guest)
}
