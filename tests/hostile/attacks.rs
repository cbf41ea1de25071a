// What mapping code in ring 0 may try. Shared by the image that does it (`main.rs`) and the test that knows what must be
// found (`../kvm/hostile.rs`).

macro_rules! attacks {
    ($($attack:ident: $what:literal,)*) => {
        /// One thing that mapping code must not do.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Attack { $(#[doc = $what] $attack,)* }

        impl Attack {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$attack,)*];
        }
    };
}

attacks! {
    WriteProbes: "Phase `map`: writes into the mailbox's list of probes.",
    WriteFaults: "Says that a fault was recorded.",
    WriteCrash: "Writes a crash that did not happen.",
    WriteAbandoned: "Says that a runtime service was abandoned.",
    WriteRequest: "Changes the request that it was given.",
    WriteInterruptStack: "Writes to the stack of the page-fault handler.",
    WriteUserStack: "Writes to ring 3's stack.",
    WriteBehindVirtualMap: "Writes behind the map for SetVirtualAddressMap.",
    WriteUnusedPool: "Writes to the last page of the pool, which it has not taken.",
    WriteMemoryMap: "Changes a descriptor's physical start.",
    WriteKernelTables: "Changes an entry of the kernel's root that is not in use.",
    WriteKernelText: "Writes to the kernel's text.",
    WriteKernelTextDirectly: "The same through the direct map, which may be written to.",
    SetCr0: "Clears CR0.WP.",
    SetCr3: "Leaves its own tables in CR3.",
    SetCr4: "Sets CR4.PGE.",
    SetEfer: "Sets EFER.SCE.",
    SetPat: "Makes PA1 uncacheable.",
    SetIdtr: "Loads an IDTR of its own.",
    SetGdtr: "Loads a GDTR of its own.",
    SetInterruptFlag: "Leaves interrupts on.",
    SetDirectionFlag: "Leaves RFLAGS.DF set.",
    SetAlignmentCheck: "Leaves RFLAGS.AC set.",
    HandOverEarly: "Hands over in the middle of its work.",
    ForgeRoot: "Hands over as if it were done, with a root that is no table.",
    ForgeCount: "The same, with 2^63 descriptors in the virtual map.",
    ForgePages: "The same, with 2^60 pages of tables.",
    ForgeCrash: "Hands over as if it had crashed.",
    ForgePanic: "Hands over as if it had panicked, at an absurd place.",
    ForgeFullRecords: "Hands over, again and again, as if the records of faults were full.",
    UnknownPort: "Writes to a port that nobody knows.",
    Halt: "Halts.",
    Undefined: "Executes ud2.",
    Divide: "Divides by zero.",
    CallNull: "Calls address 0.",
    OverflowStack: "Recurses without end.",
    Panic: "Panics.",
    Shutdown: "Faults without an IDT.",
    Loop: "Loops without end.",
    MapItself: "Leaves an entry in its root that refers to the root.",
    Globalize: "Sets G in every leaf.",
    NoTables: "Returns the kernel's root for its own.",
    UnmapInFinish: "Phase `finish`: unmaps everything.",
    OpenInFinish: "Makes every leaf writable, open to ring 3 and executable.",
    WriteVirtualMapInFinish: "Changes the map for SetVirtualAddressMap.",
    WriteUnusedPoolInFinish: "Writes to the last page of the pool.",
    OtherRootInFinish: "Returns another root.",
}
