//! Negative controls: each rule broken once, in a case that must then come out otherwise.

use super::super::bits::{A, D, G, NX, P, PAT_OF_LARGE, PS, U, W};
use super::*;

/// The same question with every rule in force, and with one broken.
fn both<T>(rule: PagingRule, path: Path, ask: impl Fn(&Path) -> T) -> (T, T) {
    let broken = path.clone().cpu(|cpu| cpu.rules = PagingRules::all().without(rule));
    (ask(&path), ask(&broken))
}

/// What breaking a rule changes, in a case made for it: the error codes before and after, none for
/// an access that arrives. Rules about other things than error codes answer with those things.
fn broken(rule: PagingRule) -> (Option<u64>, Option<u64>) {
    let code = |path: Path, access: Access| both(rule, path, |path| path.code(access).map(u64::from));
    let after = |path: Path, access: Access, index: usize| both(rule, path, |path| Some(path.after(access)[index].0));
    let vector = |path: Path, access: Access| {
        both(rule, path, |path| path.walk(access).fault().map(|fault| u64::from(fault.vector)))
    };
    let crossing_cr2 =
        |pages| both(rule, Path::to_4k(), |path| cross(pages, |cpu| *cpu = path.paging).and_then(|(_, cr2)| cr2));
    let (read, write, fetch) = (Access::read(), Access::write(), Access::fetch());
    let small = Path::to_4k;
    match rule {
        PagingRule::ReservedPhys => code(small().set(Level::Pte, 1 << 51), read),
        PagingRule::ReservedNx => code(small().set(Level::Pte, NX).cpu(|cpu| cpu.nxe = false), read),
        PagingRule::ReservedPde2m => code(Path::to_2m().set(Level::Pde, 1 << 13), read),
        PagingRule::ReservedPdpte1g => code(Path::to_1g().set(Level::Pdpte, 1 << 29), read),
        PagingRule::PsInPdpteWithout1g => code(Path::to_1g().cpu(|cpu| cpu.gbpages = false), read),
        PagingRule::PsInUpper => code(small().set(Level::Pml4e, PS), read),
        PagingRule::GInUpperAmd => code(small().set(Level::Pml4e, G).cpu(|cpu| cpu.vendor = Vendor::Amd), read),
        PagingRule::PatInLargeLeaf => code(Path::to_2m().set(Level::Pde, PAT_OF_LARGE), read),
        PagingRule::NotPresentFirst => code(small().with(Level::Pte, 1 << 51), read),
        PagingRule::HigherLevelHidesLower => code(small().set(Level::Pde, 1 << 51).clear(Level::Pte, P), read),
        PagingRule::ReservedBeforePermission => code(small().set(Level::Pte, 1 << 51).clear(Level::Pte, W), write),
        PagingRule::ReservedSetsRsvd => code(small().set(Level::Pte, 1 << 51), read),
        PagingRule::ProtectionSetsP => code(small().clear(Level::Pte, W), write),
        PagingRule::WriteSetsW => code(small().clear(Level::Pte, P), write),
        PagingRule::UserSetsU => code(small().clear(Level::Pte, P), read.user()),
        PagingRule::FetchSetsI => code(small().clear(Level::Pte, P), fetch),
        PagingRule::FetchBitNeedsNxeOrSmep => code(small().clear(Level::Pte, P).cpu(|cpu| cpu.nxe = false), fetch),
        PagingRule::WOfEveryLevel => code(small().clear(Level::Pde, W), write),
        PagingRule::UOfEveryLevel => code(small().clear(Level::Pde, U), read.user()),
        PagingRule::NxOfAnyLevel => code(small().set(Level::Pde, NX), fetch),
        PagingRule::UserNeedsU => code(small().clear(Level::Pte, U), read.user()),
        PagingRule::WriteNeedsW => code(small().clear(Level::Pte, W), write.user()),
        PagingRule::WpForSupervisor => code(small().clear(Level::Pte, W), write),
        PagingRule::NxForbidsFetch => code(small().set(Level::Pte, NX), fetch),
        PagingRule::Smep => code(small().cpu(|cpu| cpu.smep = true), fetch),
        PagingRule::Smap => code(small().cpu(|cpu| cpu.smap = true), read),
        PagingRule::AcExempts => code(small().cpu(|cpu| cpu.smap = true), read.with_ac()),
        PagingRule::AcNeverForImplicit => code(small().cpu(|cpu| cpu.smap = true), read.implicit().with_ac()),
        PagingRule::ImplicitIsSupervisor => code(small().clear(Level::Pte, U), read.implicit()),
        PagingRule::PkeyNeedsPke => code(keyed(AD).cpu(|cpu| cpu.pke = false), read),
        PagingRule::PkeyAccessDisable => code(keyed(AD), read),
        PagingRule::PkeyWriteDisable => code(keyed(WD), write),
        PagingRule::PkeyWriteFreeWithoutWp => code(keyed(WD).cpu(|cpu| cpu.wp = false), write),
        PagingRule::PkeyUserPagesOnly => code(keyed(AD).clear(Level::Pte, U), read),
        PagingRule::PkeyDataOnly => code(keyed(AD), fetch),
        PagingRule::PkReportedAlways => code(keyed(WD).clear(Level::Pte, W), write),
        PagingRule::AccessedOnSuccess => after(small(), read, 0),
        PagingRule::DirtyOnWrite => after(small(), write, 3),
        PagingRule::DirtyOnWriteOnly => after(small(), read, 3),
        PagingRule::DirtyNeverUpper => after(small(), write, 2),
        PagingRule::FaultSparesLeaf => after(small().clear(Level::Pte, W), write, 3),
        PagingRule::UpperAccessedMaySet => {
            let absent = small().clear(Level::Pte, P);
            both(rule, absent, |path| Some(path.after(read)[0].1))
        }
        PagingRule::Canonical => vector(small().at(1 << 47), read),
        PagingRule::CanonicalLa57 => vector(small().at(1 << 47).cpu(|cpu| cpu.la57 = true), read),
        PagingRule::CanonicalStack => vector(small().at(1 << 47), read.on_stack()),
        PagingRule::CrossingSecondPage => crossing_cr2([WRITABLE, READ_ONLY]),
        PagingRule::CrossingFirstBadPage => crossing_cr2([0, READ_ONLY]),
        PagingRule::CrossingCr2 => crossing_cr2([WRITABLE, READ_ONLY]),
    }
}

#[test]
fn every_rule_can_be_broken_and_is_missed() {
    let expected = [
        (PagingRule::ReservedPhys, Some(0x9), None),
        (PagingRule::ReservedNx, Some(0x9), None),
        (PagingRule::ReservedPde2m, Some(0x9), None),
        (PagingRule::ReservedPdpte1g, Some(0x9), None),
        (PagingRule::PsInPdpteWithout1g, Some(0x9), None),
        (PagingRule::PsInUpper, Some(0x9), None),
        (PagingRule::GInUpperAmd, Some(0x9), None),
        (PagingRule::PatInLargeLeaf, None, Some(0x9)),
        (PagingRule::NotPresentFirst, Some(0x0), Some(0x9)),
        (PagingRule::HigherLevelHidesLower, Some(0x9), Some(0x0)),
        (PagingRule::ReservedBeforePermission, Some(0xb), Some(0x3)),
        (PagingRule::ReservedSetsRsvd, Some(0x9), Some(0x1)),
        (PagingRule::ProtectionSetsP, Some(0x3), Some(0x2)),
        (PagingRule::WriteSetsW, Some(0x2), Some(0x0)),
        (PagingRule::UserSetsU, Some(0x4), Some(0x0)),
        (PagingRule::FetchSetsI, Some(0x10), Some(0x0)),
        (PagingRule::FetchBitNeedsNxeOrSmep, Some(0x0), Some(0x10)),
        (PagingRule::WOfEveryLevel, Some(0x3), None),
        (PagingRule::UOfEveryLevel, Some(0x5), None),
        (PagingRule::NxOfAnyLevel, Some(0x11), None),
        (PagingRule::UserNeedsU, Some(0x5), None),
        (PagingRule::WriteNeedsW, Some(0x7), None),
        (PagingRule::WpForSupervisor, Some(0x3), None),
        (PagingRule::NxForbidsFetch, Some(0x11), None),
        (PagingRule::Smep, Some(0x11), None),
        (PagingRule::Smap, Some(0x1), None),
        (PagingRule::AcExempts, None, Some(0x1)),
        (PagingRule::AcNeverForImplicit, Some(0x1), None),
        (PagingRule::ImplicitIsSupervisor, None, Some(0x5)),
        (PagingRule::PkeyNeedsPke, None, Some(0x21)),
        (PagingRule::PkeyAccessDisable, Some(0x21), None),
        (PagingRule::PkeyWriteDisable, Some(0x23), None),
        (PagingRule::PkeyWriteFreeWithoutWp, None, Some(0x23)),
        (PagingRule::PkeyUserPagesOnly, None, Some(0x21)),
        (PagingRule::PkeyDataOnly, None, Some(0x31)),
        (PagingRule::PkReportedAlways, Some(0x23), Some(0x3)),
        // Bits set in an entry.
        (PagingRule::AccessedOnSuccess, Some(A), Some(0)),
        (PagingRule::DirtyOnWrite, Some(A | D), Some(A)),
        (PagingRule::DirtyOnWriteOnly, Some(A), Some(A | D)),
        (PagingRule::DirtyNeverUpper, Some(A), Some(A | D)),
        (PagingRule::FaultSparesLeaf, Some(0), Some(A | D)),
        (PagingRule::UpperAccessedMaySet, Some(A), Some(0)),
        // Vectors.
        (PagingRule::Canonical, Some(13), None),
        (PagingRule::CanonicalLa57, None, Some(13)),
        (PagingRule::CanonicalStack, Some(12), Some(13)),
        // CR2.
        (PagingRule::CrossingSecondPage, Some(0x2000), None),
        (PagingRule::CrossingFirstBadPage, Some(0x1ffc), Some(0x2000)),
        (PagingRule::CrossingCr2, Some(0x2000), Some(0x1ffc)),
    ];
    assert_eq!(expected.map(|(rule, ..)| rule), *PagingRule::ALL, "one case for each rule");
    for (rule, held, missed) in expected {
        assert_eq!(broken(rule), (held, missed), "{rule:?}");
    }
}

#[test]
fn rule_sets_add_and_remove() {
    assert_eq!(PagingRules::all().iter().count(), PagingRule::ALL.len());
    for &rule in PagingRule::ALL {
        assert!(PagingRules::all().has(rule));
        assert!(!PagingRules::all().without(rule).has(rule));
        assert!(PagingRules::none().with(rule).iter().eq([rule]));
    }
}

#[test]
fn what_is_absent_is_never_marked_even_by_a_broken_rule() {
    let absent = Path::to_4k().clear(Level::Pte, P);
    let (held, broken) = both(PagingRule::FaultSparesLeaf, absent, |path| path.after(Access::write())[3]);
    assert_eq!((held, broken), ((0, 0), (0, 0)));
}
