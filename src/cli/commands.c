#include <stdio.h>
#include <string.h>

#include "cli/command.h"

static const char attend_details[] =
    "Computes attention over the queries, keys and values of the HDF5 file IN by FAVOR+ (Choromanski et al.,\n"
    "ICLR 2021) at a cost linear in the number of tokens, and writes OUT: `out`, `projection`, and every option as\n"
    "an attribute.\n"
    "\n"
    "IN holds q, k, v as [N][D], [H][N][D] or [B][H][N][D] (or tokens first, see --layout), float16, bfloat16,\n"
    "float32 or float64; k and v may have fewer heads. An optional dataset `segments` (int64 [S+1], from 0 to N)\n"
    "keeps attention inside each run of tokens. The bits of OUT are the same for any number of ranks, grid, threads\n"
    "and block size.\n"
    "\n"
    "--certify ROWS says how good the approximation is: for so many rows, drawn by --seed, exact softmax attention\n"
    "over all keys, the error of OUT against it, that of the mean of the values, and the skill, 1 - error / mean\n"
    "error. Where the skill is below 0.1 the output tells no more than the mean does. --target-error X doubles the\n"
    "features on a pilot of up to 4096 tokens until their error is X or --features-max is reached.\n"
    "\n"
    "Examples:\n"
    "  favor attend qkv.h5 -o out.h5\n"
    "  favor attend qkv.h5 -o out.h5 --target-error 0.05 --features-max 4096\n"
    "  mpirun -n 8 favor attend qkv.h5 -o out.h5 --causal --features 256\n"
    "  mpirun -n 8 favor attend qkv.h5 -o out.h5 --config run.conf --grid 2x4 --memory 2G --json\n";

static const char make_details[] =
    "Writes q, k and v to the HDF5 file OUT, either normal deviates of a --shape, or from the sequences of a FASTA\n"
    "file: each record is a segment; tokens are overlapping runs of K letters (those that hold anything but ACGT, or\n"
    "but the 20 amino acids, share one token); a seeded Gaussian table turns tokens into q, k and v of each head; q\n"
    "and k get rotary positions inside the segment.\n"
    "\n"
    "These tables are random: they are not trained weights, and the attention computed from them says nothing about\n"
    "biology. They give real sequences' lengths, repeats and composition to a test or a benchmark.\n"
    "\n"
    "Examples:\n"
    "  favor make qkv.h5 --shape 1,8,65536,64\n"
    "  mpirun -n 4 favor make qkv.h5 --fasta genome.fna.gz --heads 4 --dim 32\n"
    "  favor make qkv.h5 --fasta proteins.fa --alphabet protein\n";

static const char verify_details[] =
    "Recomputes sampled rows of OUT from IN: (a) in float64 from the definition of the method, with the projection\n"
    "stored in OUT; (b) by exact softmax attention over all keys, beside the error of the mean of the values:\n"
    "information on how good the approximation is, the same that attend --certify gives for as many rows and the\n"
    "same seed. Methods exact, window, mean and copy are verified by their own definitions. Fails with exit code 1 "
    "where the error of (a) is above 1e-4, of\n"
    "all sampled rows together or of any one row, relative to the larger of its norm and its head's typical row;\n"
    "rounding to the type of OUT, up to half a last place, is not counted.\n"
    "\n"
    "Examples:\n"
    "  mpirun -n 4 favor verify qkv.h5 out.h5\n"
    "  favor verify qkv.h5 out.h5 --rows 256 --seed 7 --json\n";

static const char inspect_details[] =
    "Lists the datasets of an HDF5 file with their shapes, types and layout, and the options that it was made with.\n"
    "With --check it reads all data of a file that favor wrote, on as many ranks as there are, and tells which "
    "datasets,\n"
    "heads and tokens are not what was written; exit code 65 where any is not, or has no checksum.\n"
    "\n"
    "Examples:\n"
    "  favor inspect out.h5\n"
    "  mpirun -n 4 favor inspect out.h5 --check\n"
    "  favor inspect out.h5 --json\n";

static const char bench_details[] =
    "kernel: measures what one core can do at most, from multiply-adds on registers alone, then how near to it each "
    "kernel\n"
    "comes, and how near the same work on tiles of plain BLAS products (kernel blas). Every answer is first held\n"
    "against the definition in float64; a wrong one is not timed and ends with exit code 1. Arrays are in memory: no\n"
    "file is read. Under mpirun rank 0 works alone.\n"
    "\n"
    "scaling: the same attention on 1, 2, 4, ... ranks of the job, strong and weak, causal and bidirectional, with "
    "the\n"
    "grid that a plan chooses and with tokens alone shared out, by every scan. --shape (by default 1,8,32768,64) gives "
    "the\n"
    "tokens of all ranks when strong, of each when weak; --tokens-list several of them; --causal or --causal=off one "
    "of\n"
    "the two. Runs take turns; each is repeated --rounds times, and counted are features_state + reduce + output of "
    "the\n"
    "slowest rank. Answers have the same bits on all ranks and are held against the definition. --threads auto is "
    "what\n"
    "attend takes on all ranks. --csv FILE is what jobs/plot_scaling draws.\n"
    "\n"
    "io: how much of reading and writing streaming hides. On the file IN, or on one that it makes of --shape, by "
    "turns:\n"
    "attend; the same reads and writes without arithmetic; the same arithmetic on blocks in memory. overhead is the\n"
    "time of attend over the larger of the last two, with the arithmetic the time of a core that copies, conversions\n"
    "and checksums take. Files go to the directory --output, by default the current one, and are removed.\n"
    "\n"
    "--machine FILE has both write what `favor plan` reckons with: kernel the times to absorb keys, to emit outputs\n"
    "and of a causal pass, for every shape and kernel (reference and blas only where --kernel asks for them), on all\n"
    "ranks at once, and between them the network; io the speed of files. Start it as the run will be started. scaling\n"
    "measures the network anew, and predicts its runs.\n"
    "\n"
    "Without --shape, --features, --value-width or --causal, kernel goes through a list of shapes, in less than 45 s. "
    "With\n"
    "any of them it takes that one; what is not given is one head a thread, 16384 tokens of width 64. --threads auto\n"
    "is one thread here. OPENBLAS_CORETYPE in the environment gives BLAS the kernels of another processor.\n"
    "doc/performance.md tells how to read the table.\n"
    "\n"
    "Examples:\n"
    "  favor bench kernel\n"
    "  favor bench kernel --threads 2 --kernel avx512 --json\n"
    "  mpirun -n 8 favor bench scaling --csv scaling.csv\n"
    "  mpirun -n 2 favor bench kernel --machine node.json\n"
    "  OPENBLAS_CORETYPE=SkylakeX favor bench kernel --shape 1,1,65536,64 --features 266 --causal\n";

static const char plan_details[] =
    "Says what `favor attend` would do with the same options, and what it would take: process grid, scan, blocks,\n"
    "memory of a rank, bytes read, sent and written, seconds by phase. It runs nothing and writes nothing, and "
    "refuses\n"
    "what attend would refuse. The ranks need not be there (--ranks, --nodes, --threads), nor the file: --shape, with\n"
    "--kv-heads, --value-width and --type as in `favor make`.\n"
    "\n"
    "Grid, blocks, memory and bytes are those of the run. Seconds follow from --machine FILE, which bench kernel and\n"
    "bench io write on a machine like the one in question; without it from default figures of one processor. `attend\n"
    "--machine FILE` reports the same seconds beside its own.\n"
    "\n"
    "Examples:\n"
    "  mpirun -n 2 favor bench kernel --machine node.json\n"
    "  favor bench io --machine node.json\n"
    "  favor plan qkv.h5 --causal --ranks 64 --nodes 8 --machine node.json\n"
    "  favor plan --shape 1,8,16777216,64 --ranks 1024 --nodes 32 --memory 2G --json\n";

static const char study_details[] =
    "Tables and pictures of how good the approximation is and what it costs (the figures of Choromanski et al. 2021):\n"
    "  error   the relative error of the output against exact softmax attention, by number of features, for every map\n"
    "          and projection asked for: mean and standard deviation over draws of the projection; on normal deviates\n"
    "          (--shape, by default 4096 tokens of width 16; --spread, by default 1) or on q, k, v of the file IN\n"
    "  kernel  the mean square error of one kernel estimate by angle, beside the closed forms of the paper's lemma 2\n"
    "  time    seconds by number of tokens for favor, exact attention and a copy of v, until memory or patience ends\n"
    "Without a name all three. With -o DIR each is written there as NAME.csv, NAME.json, a gnuplot script NAME.gp "
    "and,\n"
    "where gnuplot is installed, NAME.svg and NAME.png.\n"
    "\n"
    "Examples:\n"
    "  mpirun -n 2 favor study -o study\n"
    "  favor study error qkv.h5 -o study --maps positive,hyperbolic --features-list 64,256,1024\n"
    "  favor study error --shape 1,2,8192,64 --spread 0.5 --causal --json\n";

static const struct command_entry entries[] = {
    {"attend", COMMAND_ATTEND, cmd_attend, 1, 1, true, "IN -o OUT [options]", "attention over q, k, v of an HDF5 file",
     attend_details},
    {"make", COMMAND_MAKE, cmd_make, 1, 1, true, "OUT --shape B,H,N,D | --fasta FILE [options]",
     "write q, k, v: random, or from a FASTA file", make_details},
    {"verify", COMMAND_VERIFY, cmd_verify, 2, 2, true, "IN OUT [options]",
     "recompute sampled rows of OUT, and against exact softmax", verify_details},
    {"inspect", COMMAND_INSPECT, cmd_inspect, 1, 1, false, "FILE [--check] [--json]",
     "what a file holds, and the options it was made with", inspect_details},
    {"bench", COMMAND_BENCH, cmd_bench, 1, 2, true, "kernel | scaling | io [IN] [options]",
     "speed against this machine's own limits, and over rank counts", bench_details},
    {"plan", COMMAND_PLAN, cmd_plan, 0, 1, true, "IN | --shape B,H,N,D [--ranks P] [options of attend]",
     "what a run would do and cost; runs nothing", plan_details},
    {"study", COMMAND_STUDY, cmd_study, 0, 2, true, "[error [IN] | kernel | time] [-o DIR] [options]",
     "error against features for every map and projection, and time against tokens", study_details},
    {"version", COMMAND_VERSION, cmd_version, 0, 0, false, "[--json]",
     "build, kernels on this machine, MPI, HDF5, BLAS", ""},
    {"help", COMMAND_HELP, cmd_help, 0, 1, false, "[COMMAND]", "this text, or that of a command", ""},
};
enum { N_ENTRIES = sizeof entries / sizeof *entries };

const struct command_entry *command_at(int index) { return index < N_ENTRIES ? &entries[index] : NULL; }

const struct command_entry *command_find(const char *name) {
  for (int i = 0; i < N_ENTRIES; i++) {
    if (strcmp(entries[i].name, name) == 0) return &entries[i];
  }
  return NULL;
}

const struct command_entry *command_of_mask(unsigned mask) {
  for (int i = 0; i < N_ENTRIES; i++) {
    if (entries[i].mask == mask) return &entries[i];
  }
  return NULL;
}

bool command_is_speaker(const struct command *command) { return favor_context_rank(command->context) == 0; }

static void append_text(const char *name, const char *text, struct favor_attribute *attributes, int *n) {
  struct favor_attribute *attribute = &attributes[(*n)++];
  *attribute = (struct favor_attribute){.kind = FAVOR_ATTRIBUTE_TEXT};
  snprintf(attribute->name, sizeof attribute->name, "%s", name);
  snprintf(attribute->text, sizeof attribute->text, "%s", text);
}

void command_attributes(const struct command *command, const char *input, struct favor_attribute *attributes, int *n) {
  append_text("version", FAVOR_VERSION, attributes, n);
  append_text("command", command_of_mask(command->options->command)->name, attributes, n);
  if (input[0]) append_text("input", input, attributes, n);
}
