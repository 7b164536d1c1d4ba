//! Checks of what is loaded.

use super::{List, State};
use crate::arm::{ArmError, Prepared, image_path, loaded as ours, sha256};
use crate::harvest::proof::Proof;
use crate::kexec::KexecState;
use initramfs::root::Root;

const ARM: &str = "`vmcorectl arm`";

pub(super) fn loaded(
    kexec: &KexecState,
    prepared: Option<&Prepared>,
    root: &Root,
    list: &mut List,
) -> Result<(), ArmError> {
    let Some(ours) = ours(root)?.filter(|_| kexec.loaded) else {
        if kexec.loaded {
            let remedy = "`vmcorectl arm`, and disable the other tool";
            list.add("image-loaded", State::Degraded, "a crash kernel is loaded, but not by vmcored", remedy);
        } else if list.fails() {
            // It has a reason with a name.
            list.skip("image-loaded", "a crash kernel is not loaded");
        } else {
            list.add("image-loaded", State::Failed, "a crash kernel is not loaded", ARM);
        }
        list.skip("image-current", "nothing of ours is loaded");
        list.skip("image-intact", "nothing of ours is loaded");
        return Ok(());
    };
    let shown = format!("{}, {}", ours.release, collector::utc::readable(ours.time));
    list.ok("image-loaded", shown);
    match prepared.map(|prepared| prepared.differences(&ours)) {
        None => list.skip("image-current", "there is no plan"),
        Some(changed) if changed.is_empty() => list.ok("image-current", ours.image.clone()),
        Some(changed) => {
            let value = format!("{} changed since it was loaded", changed.join(", "));
            list.add("image-current", State::Degraded, value, ARM);
        }
    }
    let path = root.path(image_path(&ours.image));
    match sha256(&path) {
        Ok(hash) if hash == ours.image => list.ok("image-intact", format!("SHA-256 {hash}")),
        Ok(hash) => list.add(
            "image-intact",
            State::Degraded,
            format!("{} has SHA-256 {hash}", path.display()),
            "`vmcorectl arm --force` writes it anew; look at the disk it lies on",
        ),
        Err(e) => {
            let remedy = "`vmcorectl arm --force` writes it anew";
            list.add("image-intact", State::Degraded, format!("cannot read {}: {e}", path.display()), remedy);
        }
    }
    Ok(())
}

pub(super) fn proof(root: &Root, list: &mut List) -> Result<(), ArmError> {
    let Some(proof) = Proof::read(root)? else {
        let remedy = "`vmcorectl test --crash`, when the machine may restart";
        list.add("last-proof", State::Note, "no crash was ever tested here", remedy);
        return Ok(());
    };
    let when = collector::utc::readable(proof.time);
    let ours = ours(root)?;
    let (image, seconds) = (ours.as_ref().map(|ours| ours.image.as_str()), proof.seconds.unwrap_or(0));
    let shown = format!("{} at {when}, {seconds} s, {} MiB", proof.id, proof.bytes.div_ceil(1 << 20));
    if !proof.passed {
        let remedy = "mend it, and `vmcorectl test --crash` again";
        list.add("last-proof", State::Degraded, format!("{shown}: {}", proof.message), remedy);
    } else if image == Some(proof.image.as_str()) {
        list.ok("last-proof", shown);
    } else {
        let value = format!("{shown}, with another image than is loaded now");
        list.add("last-proof", State::Note, value, "`vmcorectl test --crash`");
    }
    Ok(())
}
