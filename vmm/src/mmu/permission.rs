//! Rights, and whether they suffice for an access (SDM 4.6).

use super::access::{Access, Kind, Privilege};
use super::fault::ErrorCode;
use super::level::{Level, bits};
use super::paging::Paging;
use super::rules::PagingRule;

/// What the levels passed so far grant together: W and U are the AND of all, NX the OR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights {
    /// Every level has W.
    pub writable: bool,
    /// Every level has U: a *user-mode address* in the SDM's words.
    pub user: bool,
    /// No level has NX, or EFER.NXE = 0.
    pub executable: bool,
    /// The leaf's protection key; 0 while CR4.PKE = 0, where those bits are ignored.
    pub pkey: u8,
}

impl Rights {
    /// What CR3 grants, before any entry has taken something away.
    pub(super) const ALL: Self = Self { writable: true, user: true, executable: true, pkey: 0 };

    /// These rights below one more entry.
    #[inline]
    pub(super) fn below(self, level: Level, entry: u64, paging: &Paging) -> Self {
        let leaf = level.maps_page(entry);
        let counts = |rule| leaf || paging.rules.has(rule);
        let grants = |bit| entry & bit != 0;
        let keyed = leaf && (paging.pke || !paging.rules.has(PagingRule::PkeyNeedsPke));
        Self {
            writable: self.writable && (grants(bits::W) || !counts(PagingRule::WOfEveryLevel)),
            user: self.user && (grants(bits::U) || !counts(PagingRule::UOfEveryLevel)),
            executable: self.executable && !(paging.nxe && grants(bits::NX) && counts(PagingRule::NxOfAnyLevel)),
            pkey: if keyed { ((entry & bits::PKEY) >> 59) as u8 } else { 0 },
        }
    }

    /// The error code of `access` to a page with these rights, or none if they suffice.
    pub(super) fn refuse(self, access: Access, paging: &Paging) -> Option<ErrorCode> {
        let refused = self.refuses_mode(access, paging);
        let by_key = self.refuses_key(access, paging);
        if !refused && !by_key {
            return None;
        }
        let reports_key = by_key && (!refused || paging.rules.has(PagingRule::PkReportedAlways));
        Some(
            ErrorCode::of_access(access, paging)
                | ErrorCode::P.only_if(paging.rules.has(PagingRule::ProtectionSetsP))
                | ErrorCode::PK.only_if(reports_key),
        )
    }

    /// Access rights without protection keys (SDM 4.6.1).
    fn refuses_mode(self, access: Access, paging: &Paging) -> bool {
        let rules = paging.rules;
        let user_mode = access.is_user_mode(paging);
        if user_mode && !self.user && rules.has(PagingRule::UserNeedsU) {
            return true;
        }
        let supervisor_on_user_page = !user_mode && self.user;
        match access.kind {
            Kind::Fetch => {
                let smep = paging.smep && rules.has(PagingRule::Smep);
                !self.executable && rules.has(PagingRule::NxForbidsFetch) || supervisor_on_user_page && smep
            }
            Kind::Write if self.refuses_write(access, paging) => true,
            Kind::Read | Kind::Write => supervisor_on_user_page && smap_holds(access, paging),
        }
    }

    fn refuses_write(self, access: Access, paging: &Paging) -> bool {
        let wp = paging.wp && paging.rules.has(PagingRule::WpForSupervisor);
        let bound = access.is_user_mode(paging) || wp;
        !self.writable && bound && paging.rules.has(PagingRule::WriteNeedsW)
    }

    /// Protection keys (SDM 4.6.2).
    fn refuses_key(self, access: Access, paging: &Paging) -> bool {
        let rules = paging.rules;
        let guarded = (paging.pke || !rules.has(PagingRule::PkeyNeedsPke))
            && (self.user || !rules.has(PagingRule::PkeyUserPagesOnly))
            && (access.kind != Kind::Fetch || !rules.has(PagingRule::PkeyDataOnly));
        if !guarded {
            return false;
        }
        let key = paging.pkru >> (2 * self.pkey as u32);
        let (access_disable, write_disable) = (key & 1 != 0, key & 2 != 0);
        let bound = access.is_user_mode(paging) || paging.wp || !rules.has(PagingRule::PkeyWriteFreeWithoutWp);
        let writes = access.kind == Kind::Write && bound;
        access_disable && rules.has(PagingRule::PkeyAccessDisable)
            || write_disable && writes && rules.has(PagingRule::PkeyWriteDisable)
    }
}

/// SMAP is on, and EFLAGS.AC does not lift it for this access.
fn smap_holds(access: Access, paging: &Paging) -> bool {
    let rules = paging.rules;
    let liftable = access.privilege != Privilege::Implicit || !rules.has(PagingRule::AcNeverForImplicit);
    let lifted = access.ac && liftable && rules.has(PagingRule::AcExempts);
    paging.smap && rules.has(PagingRule::Smap) && !lifted
}
