//! HVM guests with other emulated machines: without PV drivers, with many devices, without
//! hardware-assisted paging, and with a disk from which they boot. Each boots for its own
//! scenario.

use anyhow::{Context, Result, ensure};
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, Machine, MachineStatus, boot_disk, qcow2};

use super::{LOAD, check, landed_classic, no_state_is_left, refused_in_the_pause, with_devices};
use crate::attempt::{Ended, Plan};
use crate::world::World;
use crate::{aftermath, fast, refusals};

/// A guest whose Linux knows nothing of Xen. libxl stops it from outside, and only libxl can,
/// so it lands the classic way. It also runs on after it was stopped and refused.
pub fn without_pv_drivers(world: &mut World) -> Result<()> {
    let name = "bare";
    let guest = world.booted(&GuestSpec {
        machine: Machine::without_pv_drivers(name),
        ..GuestSpec::hvm(name)
    })?;
    guest.set_load(LOAD)?;
    // Its only network card is emulated; otherwise it would not be what it stands for.
    let drivers = format!(
        "xenstore-read /local/domain/{}/device/vif/0/state",
        guest.domid()?
    );
    let state = world.host.run(&drivers)?.checked()?;
    ensure!(state.trim() == "1", "it uses a PV device: state {state}");
    let limit = world.pace.ample();
    let ended = may_land_fast().limit(limit).run(&world.host, &guest)?;
    landed_classic(&ended, "without PV drivers")?;
    check(world, &guest, &ended)?;

    let plan = refusals::over_a_slow_link(world);
    let ended = refusals::with_a_burst(world, &guest, plan)?.finish()?;
    refused_in_the_pause(&ended)?;
    guest.set_load(LOAD)?;
    check(world, &guest, &ended)?;
    world.bury_guest()
}

/// Returns an attempt that lands fast if the guest supports it.
fn may_land_fast() -> Plan {
    Plan::direct().land("exec lull land")
}

/// Many devices, and disks in files. QEMU opens such disks for good before the guest has
/// stopped, so the guest lands the classic way.
pub fn many_devices(world: &mut World) -> Result<()> {
    let disks = [
        format!("format=raw,vdev=hda,access=rw,target={RAW}"),
        format!("format=qcow2,vdev=hdb,access=rw,target={QCOW2}"),
    ];
    let moves = |world: &World, guest: &Guest| -> Result<Ended> {
        let ended = may_land_fast().run(&world.host, guest)?;
        landed_classic(&ended, "disk")?;
        Ok(ended)
    };
    with_many_devices(world, &disks, "sda,sdb,sdc,xvdf", moves)
}

/// The same with disks that are block devices: the guest lands fast.
pub fn fast_many_devices(world: &mut World) -> Result<()> {
    let disks = [format!("phy:{SECOND_LOOP},hda,w")];
    let moves = |world: &World, guest: &Guest| -> Result<Ended> {
        // A loop device is not on the list of disks that two hosts may open at once.
        let vouch = format!("lull limits set {NAME} --disks trusted");
        world.host.run(&vouch)?.checked()?;
        let plan = Plan::direct().limit(world.pace.ample()).fast_by("");
        let ended = plan.run(&world.host, guest);
        world.host.run("rm -f /etc/lull.toml")?.checked()?;
        let ended = ended?;
        fast::landed_fast(&ended)?;
        no_state_is_left(world)?;
        Ok(ended)
    };
    with_many_devices(world, &disks, "sda,sdb,xvdf", moves)
}

const NAME: &str = "devices";

const RAW: &str = "/run/rig/devices.raw";
const QCOW2: &str = "/run/rig/devices.qcow2";
const CD: &str = "/run/rig/devices.iso";

/// Loop devices over files of the size that the guest uses.
const LOOP: &str = "/dev/loop0";
const SECOND_LOOP: &str = "/dev/loop1";

/// The addresses of dom0 and of the guest's emulated network card, on a network of their own.
const DOM0: &str = "10.78.0.1";
const EMULATED: &str = "10.78.0.2";

const SCREEN_AND_MORE: &str = "vga = \"stdvga\"\nvnc = 1\nvncunused = 1\n\
                               serial = \"pty\"\nusb = 1\nusbdevice = \"tablet\"\n";

/// Boots a guest with these IDE disks and all other devices, moves it, and checks that its
/// QEMU has the same devices afterwards and that they work. The guest uses the disks named
/// in `used`, by its own names: IDE disks come before the SCSI disk.
fn with_many_devices(
    world: &mut World,
    disks: &[String],
    used: &str,
    moves: impl Fn(&World, &Guest) -> Result<Ended>,
) -> Result<()> {
    world.forget_guest();
    let made = make_files(&world.host);
    let moved = made.and_then(|()| {
        let guest = world.booted(&spec(disks, used))?;
        guest.set_load(LOAD)?;
        move_with_devices(world, &guest, moves)?;
        world.bury_guest()
    });
    world.forget_guest();
    let cleared = world.host.run(&format!(
        "for loop in {LOOP} {SECOND_LOOP}; do busybox losetup -d $loop; done; \
         rm -f {RAW}* {QCOW2} {CD}; ip address del {DOM0}/24 dev xenbr0"
    ))?;
    moved?;
    cleared.checked().map(drop)
}

/// Makes what the disks are in, and the network of the emulated card.
fn make_files(host: &Host) -> Result<()> {
    let image = host.folder().join("devices.qcow2");
    std::fs::write(&image, qcow2::empty(1 << 20))?;
    host.put(&image, QCOW2)?;
    host.run(&format!(
        "modprobe loop && \
         for file in {RAW} {RAW}.0 {RAW}.1 {CD}; do truncate -s 1M $file || exit; done && \
         busybox losetup {LOOP} {RAW}.0 && busybox losetup {SECOND_LOOP} {RAW}.1 && \
         ip address add {DOM0}/24 dev xenbr0"
    ))?
    .checked()
    .context("the disks of a guest with many devices")?;
    Ok(())
}

fn spec(disks: &[String], used: &str) -> GuestSpec {
    let mut lines = SCREEN_AND_MORE.to_owned();
    let others = [
        format!("phy:{LOOP},sda,w"),
        "phy:/dev/nvme0n1,xvdf,w".to_owned(),
        format!("vdev=hdc,access=ro,devtype=cdrom,target={CD}"),
        "vdev=hdd,access=ro,devtype=cdrom".to_owned(),
    ];
    let disks = disks.iter().chain(&others);
    let disks: Vec<String> = disks.map(|disk| format!("\"{disk}\"")).collect();
    lines.push_str(&format!("disk = [{}]\n", disks.join(", ")));
    GuestSpec {
        // The screen takes 16 MiB of it.
        memory_mib: 192,
        disk: None,
        second_vif: true,
        machine: Machine {
            lines,
            // Linux uses emulated and PV devices at the same time. Of the disks, only those
            // that are not emulated are PV disks then.
            words: format!(
                "xen_emul_unplug=unnecessary lull.disk={used} lull.emulated-ip={EMULATED} \
                 lull.screen"
            ),
            // The second interface is emulated, and only that one is used so.
            nic: ",type=vif".to_owned(),
        },
        ..GuestSpec::hvm(NAME)
    }
}

fn move_with_devices(
    world: &World,
    guest: &Guest,
    moves: impl Fn(&World, &Guest) -> Result<Ended>,
) -> Result<()> {
    let timeline = Timeline::start();
    let before = devices(guest)?;
    for part in [
        "not inserted",
        CD,
        LOOP,
        "scsi0-hd0",
        "VGA controller",
        "USB Tablet",
        "model=rtl8139",
    ] {
        ensure!(before.contains(part), "no {part:?} among:\n{before}");
    }
    emulated_card_answers(guest).context("before the move")?;
    let screen = |when: &str| -> Result<MachineStatus> {
        let screen = guest.status()?.screen.context("it uses no screen")?;
        ensure!(screen.errors == 0, "its screen {when}: {screen:?}");
        Ok(screen)
    };
    let before_the_move = screen("before the move")?;
    timeline.phase("devices listed");
    with_devices(guest, || {
        let ended = moves(world, guest)?;
        timeline.phase("moved");
        emulated_card_answers(guest).with_context(|| ended.in_short())?;
        aftermath::check(&world.host, guest, &ended)
    })?;
    let afterwards = screen("after the move")?;
    ensure!(
        afterwards.read > before_the_move.read,
        "nothing is written on its screen: {afterwards:?}"
    );
    let after = devices(guest)?;
    ensure!(
        before == after,
        "other devices. Before:\n{before}\nAfter:\n{after}"
    );
    Ok(())
}

/// Returns QEMU's description of the guest's devices, without what differs from one QEMU to the
/// next: names of its own, the domid and the order of disks.
fn devices(guest: &Guest) -> Result<String> {
    let domid = guest.domid()?;
    let ask = |what: &str, filter: &str| -> Result<String> {
        let command = format!("xl qemu-monitor-command {domid} 'info {what}' | tr -d '\\r'");
        let output = guest.host().run(&format!("{command} | {filter}"))?;
        let output = output.checked().with_context(|| format!("info {what}"))?;
        ensure!(!output.trim().is_empty(), "QEMU tells nothing of: {what}");
        Ok(format!("{what}:\n{output}"))
    };
    let blocks = "sed -n '/^\\(ide\\|scsi\\)/{s/ (#block[0-9]*)//;p;}' | sort";
    let mut all = ask("block", blocks)?;
    all.push_str(&ask("pci", "cat")?);
    all.push_str(&ask("usb", "cat")?);
    all.push_str(&ask("network", "grep type=nic")?);
    // Their places differ: both QEMUs run on this host.
    ask("vnc", "grep Server")?;
    let path = format!("/local/domain/{domid}/serial/0/tty");
    let serial = format!("test -c \"$(xenstore-read {path})\"");
    let serial = guest.host().run(&serial)?;
    serial.checked().context("its serial line is no terminal")?;
    Ok(all)
}

/// The emulated card may need a while after a move: each register costs time.
fn emulated_card_answers(guest: &Guest) -> Result<()> {
    let ping = format!("ping -c 3 -w 60 {EMULATED}");
    let output = guest.host().run(&ping)?;
    output.checked().context("the emulated network card")?;
    Ok(())
}

/// Without hardware-assisted paging Xen logs dirty memory in the page tables that it keeps
/// for the guest.
pub fn without_hap(world: &mut World) -> Result<()> {
    let mut machine = Machine::small();
    machine.lines.push_str("hap = 0\n");
    let guest = world.booted(&GuestSpec {
        machine,
        ..GuestSpec::hvm("shadow")
    })?;
    guest.set_load(LOAD)?;
    let limit = world.pace.ample();
    let is_shadowed = |guest: &Guest| -> Result<()> {
        let state = world.host.shadow_state(guest.domid()?)?;
        ensure!(state == Some(true), "paging in shadow: {state:?}");
        Ok(())
    };
    is_shadowed(&guest)?;
    let classic = Plan::direct().limit(limit).landing("classic");
    let ended = classic.run(&world.host, &guest)?;
    ended.expect(0)?;
    check(world, &guest, &ended)?;
    is_shadowed(&guest)?;
    let fast = Plan::direct().limit(limit).fast_by("");
    let ended = fast.run(&world.host, &guest)?;
    fast::landed_fast(&ended)?;
    check(world, &guest, &ended)?;
    is_shadowed(&guest)
}

/// SeaBIOS and GRUB boot the guest, and libxl puts no kernel into QEMU.
pub fn boots_from_disk(world: &mut World) -> Result<()> {
    let mut machine = Machine::small();
    machine.words.push_str(" lull.disk=xvdf");
    // SeaBIOS has AHCI put the kernel into memory. It would read an IDE disk's register for
    // each two or four bytes, and each read is a turn of the emulated QEMU.
    machine.lines.push_str(&format!(
        "hdtype = \"ahci\"\nboot = \"c\"\n\
         disk = [\"format=raw,vdev=hda,access=rw,target={}\", \"phy:/dev/nvme0n1,xvdf,w\"]\n",
        boot_disk::IMAGE
    ));
    let guest = world.booted_from_disk(&GuestSpec {
        machine,
        disk: None,
        ..GuestSpec::hvm("disk")
    });
    let moved = guest.and_then(|guest| {
        guest.set_load(LOAD)?;
        let limit = world.pace.ample();
        let ended = may_land_fast().limit(limit).run(&world.host, &guest)?;
        landed_classic(&ended, "disk")?;
        check(world, &guest, &ended)?;
        world.bury_guest()
    });
    world.forget_guest();
    let cleared = world.host.run(&format!("rm -f {}", boot_disk::IMAGE))?;
    moved?;
    cleared.checked().map(drop)
}
