//! Negative controls: each rule broken once, in a case that must then come out otherwise.

use super::super::bits::{A, D, G, NX, P, PAT_OF_LARGE, PS, U, W};
use super::*;

/// The same question with every rule in force, and with one broken.
fn both<T>(rule: Rule, path: Path, ask: impl Fn(&Path) -> T) -> (T, T) {
    let broken = path.clone().cpu(|cpu| cpu.rules = Rules::all().without(rule));
    (ask(&path), ask(&broken))
}

/// What breaking a rule changes, in a case made for it: the error codes before and after, none for
/// an access that arrives. Rules about other things than error codes answer with those things.
fn broken(rule: Rule) -> (Option<u64>, Option<u64>) {
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
        Rule::ReservedPhys => code(small().set(Level::Pte, 1 << 51), read),
        Rule::ReservedNx => code(small().set(Level::Pte, NX).cpu(|cpu| cpu.nxe = false), read),
        Rule::ReservedPde2m => code(Path::to_2m().set(Level::Pde, 1 << 13), read),
        Rule::ReservedPdpte1g => code(Path::to_1g().set(Level::Pdpte, 1 << 29), read),
        Rule::PsInPdpteWithout1g => code(Path::to_1g().cpu(|cpu| cpu.gbpages = false), read),
        Rule::PsInUpper => code(small().set(Level::Pml4e, PS), read),
        Rule::GInUpperAmd => code(small().set(Level::Pml4e, G).cpu(|cpu| cpu.vendor = Vendor::Amd), read),
        Rule::PatInLargeLeaf => code(Path::to_2m().set(Level::Pde, PAT_OF_LARGE), read),
        Rule::NotPresentFirst => code(small().with(Level::Pte, 1 << 51), read),
        Rule::HigherLevelHidesLower => code(small().set(Level::Pde, 1 << 51).clear(Level::Pte, P), read),
        Rule::ReservedBeforePermission => code(small().set(Level::Pte, 1 << 51).clear(Level::Pte, W), write),
        Rule::ReservedSetsRsvd => code(small().set(Level::Pte, 1 << 51), read),
        Rule::ProtectionSetsP => code(small().clear(Level::Pte, W), write),
        Rule::WriteSetsW => code(small().clear(Level::Pte, P), write),
        Rule::UserSetsU => code(small().clear(Level::Pte, P), read.user()),
        Rule::FetchSetsI => code(small().clear(Level::Pte, P), fetch),
        Rule::FetchBitNeedsNxeOrSmep => code(small().clear(Level::Pte, P).cpu(|cpu| cpu.nxe = false), fetch),
        Rule::WOfEveryLevel => code(small().clear(Level::Pde, W), write),
        Rule::UOfEveryLevel => code(small().clear(Level::Pde, U), read.user()),
        Rule::NxOfAnyLevel => code(small().set(Level::Pde, NX), fetch),
        Rule::UserNeedsU => code(small().clear(Level::Pte, U), read.user()),
        Rule::WriteNeedsW => code(small().clear(Level::Pte, W), write.user()),
        Rule::WpForSupervisor => code(small().clear(Level::Pte, W), write),
        Rule::NxForbidsFetch => code(small().set(Level::Pte, NX), fetch),
        Rule::Smep => code(small().cpu(|cpu| cpu.smep = true), fetch),
        Rule::Smap => code(small().cpu(|cpu| cpu.smap = true), read),
        Rule::AcExempts => code(small().cpu(|cpu| cpu.smap = true), read.with_ac()),
        Rule::AcNeverForImplicit => code(small().cpu(|cpu| cpu.smap = true), read.implicit().with_ac()),
        Rule::ImplicitIsSupervisor => code(small().clear(Level::Pte, U), read.implicit()),
        Rule::PkeyNeedsPke => code(keyed(AD).cpu(|cpu| cpu.pke = false), read),
        Rule::PkeyAccessDisable => code(keyed(AD), read),
        Rule::PkeyWriteDisable => code(keyed(WD), write),
        Rule::PkeyWriteFreeWithoutWp => code(keyed(WD).cpu(|cpu| cpu.wp = false), write),
        Rule::PkeyUserPagesOnly => code(keyed(AD).clear(Level::Pte, U), read),
        Rule::PkeyDataOnly => code(keyed(AD), fetch),
        Rule::PkReportedAlways => code(keyed(WD).clear(Level::Pte, W), write),
        Rule::AccessedOnSuccess => after(small(), read, 0),
        Rule::DirtyOnWrite => after(small(), write, 3),
        Rule::DirtyOnWriteOnly => after(small(), read, 3),
        Rule::DirtyNeverUpper => after(small(), write, 2),
        Rule::FaultSparesLeaf => after(small().clear(Level::Pte, W), write, 3),
        Rule::UpperAccessedMaySet => {
            let absent = small().clear(Level::Pte, P);
            both(rule, absent, |path| Some(path.after(read)[0].1))
        }
        Rule::Canonical => vector(small().at(1 << 47), read),
        Rule::CanonicalLa57 => vector(small().at(1 << 47).cpu(|cpu| cpu.la57 = true), read),
        Rule::CanonicalStack => vector(small().at(1 << 47), read.on_stack()),
        Rule::CrossingSecondPage => crossing_cr2([WRITABLE, READ_ONLY]),
        Rule::CrossingFirstBadPage => crossing_cr2([0, READ_ONLY]),
        Rule::CrossingCr2 => crossing_cr2([WRITABLE, READ_ONLY]),
    }
}

#[test]
fn every_rule_can_be_broken_and_is_missed() {
    let expected = [
        (Rule::ReservedPhys, Some(0x9), None),
        (Rule::ReservedNx, Some(0x9), None),
        (Rule::ReservedPde2m, Some(0x9), None),
        (Rule::ReservedPdpte1g, Some(0x9), None),
        (Rule::PsInPdpteWithout1g, Some(0x9), None),
        (Rule::PsInUpper, Some(0x9), None),
        (Rule::GInUpperAmd, Some(0x9), None),
        (Rule::PatInLargeLeaf, None, Some(0x9)),
        (Rule::NotPresentFirst, Some(0x0), Some(0x9)),
        (Rule::HigherLevelHidesLower, Some(0x9), Some(0x0)),
        (Rule::ReservedBeforePermission, Some(0xb), Some(0x3)),
        (Rule::ReservedSetsRsvd, Some(0x9), Some(0x1)),
        (Rule::ProtectionSetsP, Some(0x3), Some(0x2)),
        (Rule::WriteSetsW, Some(0x2), Some(0x0)),
        (Rule::UserSetsU, Some(0x4), Some(0x0)),
        (Rule::FetchSetsI, Some(0x10), Some(0x0)),
        (Rule::FetchBitNeedsNxeOrSmep, Some(0x0), Some(0x10)),
        (Rule::WOfEveryLevel, Some(0x3), None),
        (Rule::UOfEveryLevel, Some(0x5), None),
        (Rule::NxOfAnyLevel, Some(0x11), None),
        (Rule::UserNeedsU, Some(0x5), None),
        (Rule::WriteNeedsW, Some(0x7), None),
        (Rule::WpForSupervisor, Some(0x3), None),
        (Rule::NxForbidsFetch, Some(0x11), None),
        (Rule::Smep, Some(0x11), None),
        (Rule::Smap, Some(0x1), None),
        (Rule::AcExempts, None, Some(0x1)),
        (Rule::AcNeverForImplicit, Some(0x1), None),
        (Rule::ImplicitIsSupervisor, None, Some(0x5)),
        (Rule::PkeyNeedsPke, None, Some(0x21)),
        (Rule::PkeyAccessDisable, Some(0x21), None),
        (Rule::PkeyWriteDisable, Some(0x23), None),
        (Rule::PkeyWriteFreeWithoutWp, None, Some(0x23)),
        (Rule::PkeyUserPagesOnly, None, Some(0x21)),
        (Rule::PkeyDataOnly, None, Some(0x31)),
        (Rule::PkReportedAlways, Some(0x23), Some(0x3)),
        // Bits set in an entry.
        (Rule::AccessedOnSuccess, Some(A), Some(0)),
        (Rule::DirtyOnWrite, Some(A | D), Some(A)),
        (Rule::DirtyOnWriteOnly, Some(A), Some(A | D)),
        (Rule::DirtyNeverUpper, Some(A), Some(A | D)),
        (Rule::FaultSparesLeaf, Some(0), Some(A | D)),
        (Rule::UpperAccessedMaySet, Some(A), Some(0)),
        // Vectors.
        (Rule::Canonical, Some(13), None),
        (Rule::CanonicalLa57, None, Some(13)),
        (Rule::CanonicalStack, Some(12), Some(13)),
        // CR2.
        (Rule::CrossingSecondPage, Some(0x2000), None),
        (Rule::CrossingFirstBadPage, Some(0x1ffc), Some(0x2000)),
        (Rule::CrossingCr2, Some(0x2000), Some(0x1ffc)),
    ];
    assert_eq!(expected.map(|(rule, ..)| rule), *Rule::ALL, "one case for each rule");
    for (rule, held, missed) in expected {
        assert_eq!(broken(rule), (held, missed), "{rule:?}");
    }
}

#[test]
fn rule_sets_add_and_remove() {
    assert_eq!(Rules::all().iter().count(), Rule::ALL.len());
    for &rule in Rule::ALL {
        assert!(Rules::all().has(rule));
        assert!(!Rules::all().without(rule).has(rule));
        assert!(Rules::none().with(rule).iter().eq([rule]));
    }
}

#[test]
fn what_is_absent_is_never_marked_even_by_a_broken_rule() {
    let absent = Path::to_4k().clear(Level::Pte, P);
    let (held, broken) = both(Rule::FaultSparesLeaf, absent, |path| path.after(Access::write())[3]);
    assert_eq!((held, broken), ((0, 0), (0, 0)));
}
