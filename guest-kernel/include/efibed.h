/*
 * efibed.h: mapping code for efibed, in C and C++.
 *
 * A mapper defines efibed_map, and efibed_finish if it has something to do after SetVirtualAddressMap. It runs in ring 3 of a
 * virtual machine, without a C library, and may touch what the request names, its own data and its stack. All else is a
 * finding, and so is every privileged instruction but invlpg, wbinvd, and reads of CR0, CR3, CR4, EFER and IA32_PAT.
 *
 *     efibed build mapper.c -o mapper.elf
 *     efibed check MAP --mapper mapper.elf
 *
 * This file is generated from Rust: do not edit it.
 */

#ifndef EFIBED_H
#define EFIBED_H

#include <stdint.h>

/* Types of regions, and bits of their attributes (UEFI 2.10, 7.2). */
#define EFIBED_BOOT_SERVICES_CODE 0x3ull
#define EFIBED_BOOT_SERVICES_DATA 0x4ull
#define EFIBED_RUNTIME_SERVICES_CODE 0x5ull
#define EFIBED_RUNTIME_SERVICES_DATA 0x6ull
#define EFIBED_MEMORY_UC 0x1ull
#define EFIBED_MEMORY_WT 0x4ull
#define EFIBED_MEMORY_WB 0x8ull
#define EFIBED_MEMORY_XP 0x4000ull
#define EFIBED_MEMORY_RO 0x20000ull
#define EFIBED_MEMORY_RUNTIME 0x8000000000000000ull


// Changes with any change to this file's structures.
#define EFIBED_ABI_VERSION 1

// Kernel ranges that must stay mapped.
#define EFIBED_MAX_KEEP 8

// What the mapper may use of the CPU: what CPUID says *and* the machine was found to do.
typedef struct {
  // 1 GiB leaves (CPUID.80000001H:EDX[26]).
  uint32_t gbpages;
  // No-execute (CPUID.80000001H:EDX[20] and EFER.NXE).
  uint32_t nx;
  // Five-level paging is on (CR4.LA57).
  uint32_t la57;
  // Physical-address width in bits.
  uint32_t maxphyaddr;
} efibed_cpu;

// Virtual addresses first..=last (inclusive, since a range may end at the top of the address space).
typedef struct {
  // First byte.
  uint64_t first;
  // Last byte.
  uint64_t last;
} efibed_range;

// What the mapper is to do. Physical addresses are reached at `direct_map` plus themselves.
typedef struct {
  // EFIBED_ABI_VERSION.
  uint32_t version;
  // Levels of paging: 4, or 5 with LA57.
  uint32_t levels;
  // Virtual minus physical address (wrapping) of all memory that is named here.
  uint64_t direct_map;
  // Physical address of the memory map.
  uint64_t memory_map;
  // Its bytes.
  uint64_t memory_map_bytes;
  // Bytes from one descriptor to the next (EFI's DescriptorSize).
  uint64_t stride;
  // EFI's DescriptorVersion.
  uint32_t descriptor_version;
  // Whether the memory map is a list of Linux's own: already merged, and in the order in which Linux maps.
  uint32_t in_mapping_order;
  // Physical address of the Memory Attributes Table's entries, of the same stride.
  uint64_t attributes_table;
  // Their bytes, 0 where there is no such table.
  uint64_t attributes_table_bytes;
  // Physical address of the room for the virtual map, the one that SetVirtualAddressMap will be given.
  uint64_t virtual_map;
  // Bytes of that room.
  uint64_t virtual_map_bytes;
  // Physical address of a root in which the kernel's ranges are mapped already. It is the mapper's own, and so are the
  // tables below it down to those that hold the kernel's last-level entries.
  uint64_t root;
  // Physical address of the kernel's own root, which may be read only.
  uint64_t kernel_root;
  // Physical range of all table memory, first byte and end.
  uint64_t table_reach[2];
  // Physical range of the pages the mapper may use for tables, zeroed, first byte and end. They are taken from its start;
  // [`MapResult::table_pages`] says how many are.
  uint64_t table_pool[2];
  // Physical address of the log's room.
  uint64_t log;
  // Bytes of that room.
  uint64_t log_bytes;
  // What the mapper may use.
  efibed_cpu cpu;
  // How many of `keep` there are.
  uint64_t keep_count;
  // The kernel's own virtual ranges, which must stay mapped as they are.
  efibed_range keep[EFIBED_MAX_KEEP];
} efibed_request;

// What the mapper is mapping.
typedef struct {
  // Where it starts, as its descriptor has it.
  uint64_t phys_start;
  // How many pages it has; 0: nothing is being mapped.
  uint64_t page_count;
} efibed_region;

// What the mapper did. It finds here what phase `map` left when it comes to phase `finish`.
typedef struct {
  // A [`MapStatus`].
  uint64_t status;
  // The descriptor, or other number, that goes with the status; of a panic, where in the log its account begins.
  uint64_t detail;
  // Physical address of the root to load.
  uint64_t root;
  // Descriptors in the virtual map.
  uint64_t mapped;
  // Pages used of the pool. Not 0 at first: the root that was given takes some.
  uint64_t table_pages;
  // Bytes of text in the log.
  uint64_t log_used;
  // What is being mapped, for the report if the mapper has to be ended.
  efibed_region region_at_hand;
} efibed_result;

// One descriptor of the memory map, version [`DESCRIPTOR_VERSION`].
//
// A map is walked with the *stride* its owner states, never with the size of this structure.
typedef struct {
  // One of [`memory_type`], or a number of an OEM's or an operating system's own.
  uint32_t ty;
  // Zero.
  uint32_t pad;
  // Physical address of the region's first byte.
  uint64_t phys_start;
  // Virtual address of the region's first byte; what SetVirtualAddressMap is told.
  uint64_t virt_start;
  // Length of the region in pages of 4 KiB.
  uint64_t page_count;
  // Bits of [`attribute`]: capabilities of the memory, not how it is mapped.
  uint64_t attribute;
} efibed_descriptor;

#endif  /* EFIBED_H */

/*
 * Helpers: what most mappers would write themselves.
 */

/* The memory at a physical address, of all that the request names. */
static inline void *efibed_at(const efibed_request *request, uint64_t phys) {
    return (void *)(uintptr_t)(phys + request->direct_map);
}

/* How many descriptors the memory map has. */
static inline uint64_t efibed_count(const efibed_request *request) {
    return request->memory_map_bytes / request->stride;
}

/* One of them. They are `stride` bytes apart, which is more than the structure has. */
static inline efibed_descriptor *efibed_descriptor_at(const efibed_request *request, uint64_t index) {
    return (efibed_descriptor *)efibed_at(request, request->memory_map + index * request->stride);
}

/* The physical address of the next page for tables, all zeros; 0 where there are no more. */
static inline uint64_t efibed_page(const efibed_request *request, efibed_result *result) {
    uint64_t page = request->table_pool[0] + result->table_pages * 4096;
    if (page >= request->table_pool[1]) {
        return 0;
    }
    result->table_pages += 1;
    return page;
}

/* Adds a region, with its virt_start, to the map that SetVirtualAddressMap will be given; 0 where it has no room. */
static inline int efibed_push(const efibed_request *request, efibed_result *result, const efibed_descriptor *region) {
    uint64_t at = result->mapped * request->stride;
    if (at + request->stride > request->virtual_map_bytes) {
        return 0;
    }
    *(efibed_descriptor *)efibed_at(request, request->virtual_map + at) = *region;
    result->mapped += 1;
    return 1;
}

/* Adds text to the log, which the report shows. What finds no room is left out. */
static inline void efibed_log(const efibed_request *request, efibed_result *result, const char *text) {
    char *log = (char *)efibed_at(request, request->log);
    while (*text != 0 && result->log_used < request->log_bytes) {
        log[result->log_used++] = *text++;
    }
}

/* The same, for a number. */
static inline void efibed_log_hex(const efibed_request *request, efibed_result *result, uint64_t number) {
    char text[19] = "0x0000000000000000";
    for (int digit = 0; digit < 16; digit++) {
        text[17 - digit] = "0123456789abcdef"[number >> (4 * digit) & 15];
    }
    efibed_log(request, result, text);
}

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The mapping code. Before SetVirtualAddressMap: maps the regions, hands each mapped one to efibed_push, and leaves in
 * result->root the root to load. It finds there the root of the request, in which the kernel's ranges are mapped already.
 * Returns 0; any other value means that it gives up, and that its log says why.
 */
int efibed_map(const efibed_request *request, efibed_result *result);

/* After SetVirtualAddressMap, if there is such a function: drops boot services, tightens permissions. */
int efibed_finish(const efibed_request *request, efibed_result *result);

#ifdef __cplusplus
}
#endif
