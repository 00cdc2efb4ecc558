# The kernel of the probe guest: 32-bit, flat, paging and interrupts off,
# as PVH starts it. It waits until it is asked to suspend, does, and waits again
# wherever it wakes up.
#
# It dies by itself: each stay sets Xen's watchdog and never feeds it, and xl,
# which watches the guest, destroys what the watchdog has stopped.
#
# Its labels are local to this file (.L). With link-time optimisation all of lull is one
# assembly, and a label `poll` or `read` would take the place of the C library's function.

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
        movl    $(\argument - .Lbegin + LOAD), %ecx
        movl    $(HYPERCALLS + 32 * \number), %eax
        call    *%eax
        .endm

        .macro  request message
        movl    $(\message - .Lbegin + LOAD), %esi
        call    .Lsend
        .endm

.Lbegin:
        movl    $STACK, %esp
        movl    $0x40000002, %eax
        cpuid
        movl    %ebx, %ecx
        movl    $HYPERCALLS, %eax
        xorl    %edx, %edx
        wrmsr

# Here, or at another host: nothing but memory has come along.
.Larrived:
        hypercall MEMORY_OP, ADD_TO_PHYSMAP, .Lshared_info
        hypercall SCHED_OP, WATCHDOG, .Lwatchdog
        hypercall HVM_OP, GET_PARAM, .Lstore_port
        movl    (.Lstore_port - .Lbegin + LOAD) + 8, %eax
        movl    %eax, .Lport - .Lbegin + LOAD
        hypercall HVM_OP, GET_PARAM, .Lstore_pfn
        movl    (.Lstore_pfn - .Lbegin + LOAD) + 8, %eax
        shll    $12, %eax
        movl    %eax, .Lpage - .Lbegin + LOAD
        request .Lwatch

# Each answer says what to do next.
.Lnext:
        movl    $(.Lheader - .Lbegin + LOAD), %edi
        movl    $16, %ecx
        call    .Ltake
        movl    $BODY, %edi
        movl    (.Lheader - .Lbegin + LOAD) + 12, %ecx
        call    .Ltake
        movl    .Lheader - .Lbegin + LOAD, %eax
        cmpl    $WATCH_EVENT, %eax
        je      .Llook
        cmpl    $WRITE, %eax
        je      .Lsuspend
        cmpl    $READ, %eax
        jne     .Lnext
        cmpl    $7, (.Lheader - .Lbegin + LOAD) + 12
        jne     .Lnext
        cmpl    $0x70737573, BODY               # "susp"
        jne     .Lnext
        request .Lclear
        jmp     .Lnext
.Llook:
        request .Lread
        jmp     .Lnext
.Lsuspend:
        hypercall SCHED_OP, SHUTDOWN, .Lreason
        jmp     .Larrived

# Sends the message at %esi. There is room: each is answered before the next.
.Lsend:
        movl    12(%esi), %ecx
        addl    $16, %ecx
        movl    .Lpage - .Lbegin + LOAD, %edi
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
        hypercall EVENT_CHANNEL_OP, SEND, .Lport
        ret

# Takes %ecx bytes of answers to %edi, and waits for them.
.Ltake:
        testl   %ecx, %ecx
        jz      2f
        movl    .Lpage - .Lbegin + LOAD, %esi
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
        hypercall SCHED_OP, POLL, .Lpoll
        popal
        jmp     1b

        .balign 4
.Lshared_info:
        .short  DOMID_SELF, 0
        .long   0, 0, SHARED_INFO >> 12
.Lwatchdog:
        .long   0, 300                          # a new one, in seconds
.Lstore_port:
        .short  DOMID_SELF, 0
        .long   STORE_PORT, 0, 0
.Lstore_pfn:
        .short  DOMID_SELF, 0
        .long   STORE_PFN, 0, 0
.Lpoll:
        .long   .Lport - .Lbegin + LOAD, 1, 0, 0    # one port, for ever
.Lreason:
        .long   2                               # SHUTDOWN_suspend
.Lport:
        .long   0
.Lpage:
        .long   0
.Lheader:
        .long   0, 0, 0, 0
.Lwatch:
        .long   WATCH, 0, 0, 19
        .asciz  "control/shutdown"
        .asciz  "t"
        .balign 4
.Lread:
        .long   READ, 0, 0, 17
        .asciz  "control/shutdown"
        .balign 4
.Lclear:
        .long   WRITE, 0, 0, 17
        .asciz  "control/shutdown"
        .balign 4
