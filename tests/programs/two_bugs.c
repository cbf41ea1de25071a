/* Mapping code in C that maps page by page, and gives a wrong frame at two lines: to the last page of a region of four pages, and
   to the first of any other. `../kvm/writers.rs` looks for these lines. */
#include "efibed.h"

#define PAGE 4096ull
#define BASE 0xffffff0000000000ull
#define ADDRESS 0x000ffffffffff000ull
#define FLAGS 3ull

static uint64_t *entry_of(const efibed_request *request, efibed_result *result, uint64_t virt) {
    uint64_t *table = efibed_at(request, request->root);
    for (int shift = 39; shift > 12; shift -= 9) {
        uint64_t *entry = &table[virt >> shift & 511];
        if (!(*entry & 1)) {
            *entry = efibed_page(request, result) | FLAGS;
        }
        table = efibed_at(request, *entry & ADDRESS);
    }
    return &table[virt >> 12 & 511];
}

__attribute__((noinline)) static void one_page_up(uint64_t *entry, uint64_t phys) {
    *entry = (phys + PAGE) | FLAGS; /* the first bug */
}

static inline __attribute__((always_inline)) void set(uint64_t *entry, uint64_t value) {
    *(volatile uint64_t *)entry = value; /* the second bug's store */
}

__attribute__((noinline)) static void one_page_down(uint64_t *entry, uint64_t phys) {
    set(entry, (phys - PAGE) | FLAGS);
}

int efibed_map(const efibed_request *request, efibed_result *result) {
    result->root = request->root;
    uint64_t virt = BASE;
    for (uint64_t index = 0; index < efibed_count(request); index += 1) {
        efibed_descriptor region = *efibed_descriptor_at(request, index);
        if (!(region.attribute & 1ull << 63)) {
            continue;
        }
        region.virt_start = virt;
        for (uint64_t page = 0; page < region.page_count; page += 1, virt += PAGE) {
            uint64_t *entry = entry_of(request, result, virt), phys = region.phys_start + page * PAGE;
            *(volatile uint64_t *)entry = phys | FLAGS;
            if (region.page_count == 4 && page == 3) {
                one_page_up(entry, phys);
            } else if (region.page_count != 4 && page == 0) {
                one_page_down(entry, phys);
            }
        }
        efibed_push(request, result, &region);
    }
    return 0;
}
