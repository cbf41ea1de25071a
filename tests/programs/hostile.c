/* Mapping code in C that maps rightly, and does one thing more: ATTACK says which. `../kvm/programs.rs` knows what must be
   found. */
#include "efibed.h"

#define PAGE 4096ull
#define LARGE (2ull << 20)
#define BASE 0xffffff0000000000ull
#define ADDRESS 0x000ffffffffff000ull
enum { PRESENT = 1, WRITABLE = 2, PS = 1 << 7 };

static volatile uint64_t data = 1;

static uint64_t *below(const efibed_request *request, efibed_result *result, uint64_t *entry) {
    if (!(*entry & PRESENT)) {
        *entry = efibed_page(request, result) | PRESENT | WRITABLE;
#if ATTACK == USE_A_PAGE_TWICE
        result->table_pages -= 1;
#endif
    }
    return efibed_at(request, *entry & ADDRESS);
}

static void map(const efibed_request *request, efibed_result *result, uint64_t virt, uint64_t phys, uint64_t bytes) {
    for (uint64_t done = 0, step; done < bytes; done += step) {
        uint64_t *table = efibed_at(request, request->root);
        uint64_t v = virt + done, p = phys + done;
#if ATTACK == BY_VIRTUAL_ALIGNMENT
        int large = v % LARGE == 0 && bytes - done >= LARGE;
#else
        int large = (v | p) % LARGE == 0 && bytes - done >= LARGE;
#endif
        for (int shift = 39; shift > (large ? 21 : 12); shift -= 9) {
            table = below(request, result, &table[v >> shift & 511]);
        }
        step = large ? LARGE : PAGE;
        table[v >> (large ? 21 : 12) & 511] = p | PRESENT | WRITABLE | (large ? PS : 0);
    }
}

__attribute__((noinline)) static uint64_t deeper(volatile uint64_t *words) {
    volatile uint64_t next[64];
    next[0] = words[0] + 1;
    return deeper(next) + next[0];
}

static void write_to(uint64_t virt) {
    *(volatile uint64_t *)(uintptr_t)virt = 1;
}

static int attack(const efibed_request *request, efibed_result *result) {
    (void)request, (void)result;
#if ATTACK == WRITE_NULL
    write_to(8);
#elif ATTACK == WRITE_CONSTANT
    write_to((uintptr_t)"eight bytes of text" & ~7ull);
#elif ATTACK == WRITE_CODE
    write_to((uintptr_t)&efibed_map & ~7ull);
#elif ATTACK == CALL_DATA
    ((void (*)(void))(uintptr_t)&data)();
#elif ATTACK == CALL_NULL
    ((void (*)(void))(uintptr_t)(data - 1))();
#elif ATTACK == WRITE_KERNEL
    write_to(0xffffffff80015000ull);
#elif ATTACK == WRITE_KERNEL_TABLES
    write_to((uintptr_t)efibed_at(request, request->kernel_root));
#elif ATTACK == WRITE_ATTRIBUTES_TABLE
    write_to((uintptr_t)efibed_at(request, request->attributes_table & ADDRESS));
#elif ATTACK == READ_FIRMWARE
    data = *(volatile uint64_t *)0x7e729000;
#elif ATTACK == NOT_CANONICAL
    write_to(1ull << 62);
#elif ATTACK == HALT
    __asm__ volatile("hlt");
#elif ATTACK == PORT
    __asm__ volatile("outb %al, $0xef");
#elif ATTACK == SET_CR3
    __asm__ volatile("mov %0, %%cr3" : : "r"(result->root));
#elif ATTACK == SYSTEM_CALL
    __asm__ volatile("syscall" : : "a"(39) : "rcx", "r11", "memory");
#elif ATTACK == UNDEFINED
    __builtin_trap();
#elif ATTACK == DIVIDE
    data = (data + 6) / (data - 1);
#elif ATTACK == UNALIGNED
    __asm__ volatile("movaps 1(%%rsp), %%xmm0\n movaps 2(%%rsp), %%xmm0" : : : "xmm0");
#elif ATTACK == LOOP
    while (data) {
    }
#elif ATTACK == RECURSE
    data = deeper(&data);
#elif ATTACK == GIVE_UP
    efibed_log(request, result, "no room for ");
    efibed_log_hex(request, result, 0x7e729000);
    return 7;
#elif ATTACK == ROOT_NO_TABLE
    result->root += 8;
#elif ATTACK == ROOT_NOWHERE
    result->root = 0x1234567000;
#elif ATTACK == ROOT_OF_KERNEL
    result->root = request->kernel_root;
#elif ATTACK == MANY_DESCRIPTORS
    result->mapped = 1ull << 63;
#elif ATTACK == MANY_PAGES
    result->table_pages = 1ull << 60;
#elif ATTACK == LONG_LOG
    result->log_used = 1ull << 63;
#elif ATTACK == NO_DESCRIPTORS
    result->mapped = 0;
#elif ATTACK == BEHIND_THE_MAP
    write_to((uintptr_t)efibed_at(request, request->virtual_map + result->mapped * request->stride));
#elif ATTACK == UNUSED_PAGE
    write_to((uintptr_t)efibed_at(request, request->table_pool[1] - 64));
#elif ATTACK == CHANGE_A_DESCRIPTOR
    efibed_descriptor_at(request, 0)->page_count += 1;
#elif ATTACK == CHANGE_THE_REQUEST
    /* Of no use: the host goes by its own. */
    ((efibed_request *)request)->table_pool[1] = 1ull << 60;
    result->status = 99;
#elif ATTACK == WHAT_IS_ALLOWED
    double sum = 0;
    for (uint64_t i = 0; i < efibed_count(request); i++) {
        sum += (double)efibed_descriptor_at(request, i)->page_count / 3;
    }
    uint64_t cr0, cr3, cr4;
    __asm__ volatile("mov %%cr0, %0\n mov %%cr3, %1\n mov %%cr4, %2\n invlpg (%%rsp)\n wbinvd\n std\n cld"
                     : "=r"(cr0), "=r"(cr3), "=r"(cr4));
    data = cr0 + cr3 + cr4 + (uint64_t)sum + *(uint64_t *)efibed_at(request, request->kernel_root);
    efibed_log(request, result, "allowed\n");
#endif
    return 0;
}

int efibed_map(const efibed_request *request, efibed_result *result) {
#if ATTACK == BY_VIRTUAL_ALIGNMENT
    uint64_t next = BASE;
#endif
    for (uint64_t i = 0; i < efibed_count(request); i++) {
        efibed_descriptor region = *efibed_descriptor_at(request, i);
        if (!(region.attribute & EFIBED_MEMORY_RUNTIME)) {
            continue;
        }
        region.virt_start = BASE + region.phys_start;
#if ATTACK == BY_VIRTUAL_ALIGNMENT
        region.virt_start = next;
        next += (region.page_count * PAGE + LARGE - 1) & ~(LARGE - 1);
#endif
        map(request, result, region.virt_start, region.phys_start, region.page_count * PAGE);
        efibed_push(request, result, &region);
    }
    return attack(request, result);
}

#if ATTACK == UNMAP_IN_FINISH || ATTACK == GIVE_UP_IN_FINISH || ATTACK == HALT_IN_FINISH
int efibed_finish(const efibed_request *request, efibed_result *result) {
    (void)request, (void)result;
#if ATTACK == UNMAP_IN_FINISH
    uint64_t *root = efibed_at(request, result->root);
    root[BASE >> 39 & 511] = 0;
    return 0;
#elif ATTACK == HALT_IN_FINISH
    __asm__ volatile("hlt");
    return 0;
#else
    return 1;
#endif
}
#endif
