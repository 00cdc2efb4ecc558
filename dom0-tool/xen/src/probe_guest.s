# The kernel of the probe guest: 32-bit, flat, paging and interrupts off,
# as PVH starts it. It waits until it is asked to suspend, does, and waits again
# wherever it wakes up.
#
# It dies by itself: each stay sets Xen's watchdog and never feeds it, and xl,
# which watches the guest, destroys what the watchdog has stopped.

        .set    LOAD,           0x100000
        .set    HYPERCALLS,     LOAD + 0x2000   # a page that Xen fills
        .set    SHARED_INFO,    LOAD + 0x3000
        .set    BODY,           LOAD + 0x4000   # of the message last read
        .set    STACK,          LOAD + 0x6000   # its upper end

# Hypercall numbers, operations, parameters (xen/include/public, 4.17).
        .set    MEMORY_OP,      12
        .set    ADD_TO_PHYSMAP, 7
        .set    SCHED_OP,       29
        .set    SHUTDOWN,       2
        .set    POLL,           3
        .set    WATCHDOG,       6
        .set    EVENT_CHANNEL_OP, 32
        .set    SEND,           4
        .set    HVM_OP,         34
        .set    GET_PARAM,      1
        .set    STORE_PFN,      1
        .set    STORE_PORT,     2
        .set    DOMID_SELF,     0x7ff0

# Event channels that have fired, one bit each, at the same place in either
# layout of shared info.
        .set    PENDING,        SHARED_INFO + 2048

# xenstore's page: two rings of a kilobyte, requests and answers, and how far
# each has been read and written.
        .set    RING,           1024
        .set    REQUESTED,      2052
        .set    ANSWERS,        1024
        .set    ANSWER_READ,    2056
        .set    ANSWERED,       2060

# Its messages: type, request, transaction, length of the body.
        .set    READ,           2
        .set    WATCH,          4
        .set    WRITE,          11
        .set    WATCH_EVENT,    15

        .macro  hypercall number, operation, argument
        movl    $\operation, %ebx
        movl    $(\argument - begin + LOAD), %ecx
        movl    $(HYPERCALLS + 32 * \number), %eax
        call    *%eax
        .endm

        .macro  request message
        movl    $(\message - begin + LOAD), %esi
        call    send
        .endm

begin:
        movl    $STACK, %esp
        movl    $0x40000002, %eax
        cpuid
        movl    %ebx, %ecx
        movl    $HYPERCALLS, %eax
        xorl    %edx, %edx
        wrmsr

# Here, or at another host: nothing but memory has come along.
arrived:
        hypercall MEMORY_OP, ADD_TO_PHYSMAP, shared_info
        hypercall SCHED_OP, WATCHDOG, watchdog
        hypercall HVM_OP, GET_PARAM, store_port
        movl    (store_port - begin + LOAD) + 8, %eax
        movl    %eax, port - begin + LOAD
        hypercall HVM_OP, GET_PARAM, store_pfn
        movl    (store_pfn - begin + LOAD) + 8, %eax
        shll    $12, %eax
        movl    %eax, page - begin + LOAD
        request watch

# Each answer says what to do next.
next:
        movl    $(header - begin + LOAD), %edi
        movl    $16, %ecx
        call    take
        movl    $BODY, %edi
        movl    (header - begin + LOAD) + 12, %ecx
        call    take
        movl    header - begin + LOAD, %eax
        cmpl    $WATCH_EVENT, %eax
        je      look
        cmpl    $WRITE, %eax
        je      suspend
        cmpl    $READ, %eax
        jne     next
        cmpl    $7, (header - begin + LOAD) + 12
        jne     next
        cmpl    $0x70737573, BODY               # "susp"
        jne     next
        request clear
        jmp     next
look:
        request read
        jmp     next
suspend:
        hypercall SCHED_OP, SHUTDOWN, reason
        jmp     arrived

# Sends the message at %esi. There is room: each is answered before the next.
send:
        movl    12(%esi), %ecx
        addl    $16, %ecx
        movl    page - begin + LOAD, %edi
        movl    REQUESTED(%edi), %edx
1:      movl    %edx, %eax
        andl    $(RING - 1), %eax
        movb    (%esi), %bl
        movb    %bl, (%edi, %eax)
        incl    %esi
        incl    %edx
        decl    %ecx
        jnz     1b
        movl    %edx, REQUESTED(%edi)
        hypercall EVENT_CHANNEL_OP, SEND, port
        ret

# Takes %ecx bytes of answers to %edi, and waits for them.
take:
        testl   %ecx, %ecx
        jz      2f
        movl    page - begin + LOAD, %esi
1:      xorl    %eax, %eax
        xchgl   %eax, PENDING                   # before the look, not after
        movl    ANSWER_READ(%esi), %eax
        cmpl    ANSWERED(%esi), %eax
        je      3f
        andl    $(RING - 1), %eax
        movb    ANSWERS(%esi, %eax), %al
        stosb
        incl    ANSWER_READ(%esi)
        decl    %ecx
        jnz     1b
2:      ret
3:      pushal
        hypercall SCHED_OP, POLL, poll
        popal
        jmp     1b

        .balign 4
shared_info:
        .short  DOMID_SELF, 0
        .long   0, 0, SHARED_INFO >> 12
watchdog:
        .long   0, 300                          # a new one, in seconds
store_port:
        .short  DOMID_SELF, 0
        .long   STORE_PORT, 0, 0
store_pfn:
        .short  DOMID_SELF, 0
        .long   STORE_PFN, 0, 0
poll:
        .long   port - begin + LOAD, 1, 0, 0    # one port, for ever
reason:
        .long   2                               # SHUTDOWN_suspend
port:
        .long   0
page:
        .long   0
header:
        .long   0, 0, 0, 0
watch:
        .long   WATCH, 0, 0, 19
        .asciz  "control/shutdown"
        .asciz  "t"
        .balign 4
read:
        .long   READ, 0, 0, 17
        .asciz  "control/shutdown"
        .balign 4
clear:
        .long   WRITE, 0, 0, 17
        .asciz  "control/shutdown"
        .balign 4
