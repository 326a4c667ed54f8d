/* Options and configuration files (cli/options.h, cli/config.h): every kind of value, what goes before what, and every
 * refusal with its message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/command.h"
#include "cli/config.h"
#include "cli/exit_code.h"
#include "cli/option_table.h"

enum { MOST_WORDS = 32 };
static struct options options; /* of the last parse; too large for a stack */

/* Parses a line whose words have no blanks. */
static struct status parse(const char *line) {
  static char copy[4096];
  char *words[MOST_WORDS];
  int n = 0;
  struct status status = {0};
  snprintf(copy, sizeof copy, "%s", line);
  for (char *word = strtok(copy, " "); word && n < MOST_WORDS; word = strtok(NULL, " ")) words[n++] = word;
  options_parse(&options, n, words, &status);
  return status;
}

static void accept(const char *line) {
  struct status status = parse(line);
  if (status.code != FAVOR_OK) fail_msg("'%s' gave %s: %s", line, favor_status_name(status.code), status.text);
}

static void refuse(const char *line, enum favor_status code, const char *part) {
  struct status status = parse(line);
  if (status.code != code || !strstr(status.text, part)) {
    fail_msg("'%s' gave %s: %s; expected %s: ...%s...", line, favor_status_name(status.code), status.text,
             favor_status_name(code), part);
  }
  assert_null(strchr(status.text, '\n'));
}

static const char *config_with(const char *content) {
  static char path[64];
  snprintf(path, sizeof path, "options_test.%d.conf", (int)getpid());
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(content, file);
  assert_int_equal(fclose(file), 0);
  return path;
}

static const char *with_config(const char *line, const char *content) {
  static char whole[512];
  snprintf(whole, sizeof whole, "%s --config %s", line, config_with(content));
  return whole;
}

static void test_defaults(void **state) {
  (void)state;
  accept("attend in.h5");
  assert_int_equal(options_integer(&options, OPTION_FEATURES), 256);
  assert_false(options_flag(&options, OPTION_CAUSAL));
  assert_string_equal(options_text(&options, OPTION_QUERY), "q");
  assert_string_equal(options_text(&options, OPTION_KERNEL), "auto");
  assert_true(options_number(&options, OPTION_SCALE) == 0);
  assert_int_equal(options_integer(&options, OPTION_MEMORY), 0);
  assert_int_equal(options_integer(&options, OPTION_OUT_TYPE), 0);
  for (int key = 0; key < OPTION_N_KEYS; key++) assert_false(options_is_given(&options, (enum option_key)key));
}

static void test_kinds(void **state) {
  (void)state;
  accept("attend in.h5 -o out.h5 --causal --features=64 --scale 0.25 --grid 2x3 --memory 512M --projection gaussian "
         "--seed 9007199254740992 --out-type bfloat16");
  assert_true(options_flag(&options, OPTION_CAUSAL));
  assert_string_equal(options_text(&options, OPTION_OUTPUT), "out.h5");
  assert_int_equal(options_integer(&options, OPTION_FEATURES), 64);
  assert_true(options_number(&options, OPTION_SCALE) == 0.25);
  assert_int_equal(options.values[OPTION_GRID].integers[0], 2);
  assert_int_equal(options.values[OPTION_GRID].integers[1], 3);
  assert_int_equal(options_integer(&options, OPTION_MEMORY), 512 << 20);
  assert_int_equal(options_integer(&options, OPTION_PROJECTION), FAVOR_PROJECTION_GAUSSIAN);
  assert_int_equal(options_integer(&options, OPTION_SEED), INT64_C(9007199254740992));
  assert_int_equal(options_integer(&options, OPTION_OUT_TYPE) - 1, FAVOR_BFLOAT16);
  accept("make out.h5 --shape 1,2,1000,64");
  assert_int_equal(options.values[OPTION_SHAPE].integers[2], 1000);
  accept("attend in.h5 -oout.h5 --causal=false --memory 3k");
  assert_false(options_flag(&options, OPTION_CAUSAL));
  assert_string_equal(options_text(&options, OPTION_OUTPUT), "out.h5");
  assert_int_equal(options_integer(&options, OPTION_MEMORY), 3072);
  accept("attend -o out.h5 -- --strange-name");
  assert_string_equal(options.operands[0], "--strange-name");
}

/* The choices of the table are the library's enums. */
static void test_choices_are_enums(void **state) {
  (void)state;
  static const struct {
    enum option_key key;
    int place;
    const char *name;
  } choices[] = {
      {OPTION_MAP, FAVOR_MAP_POSITIVE, "positive"},
      {OPTION_PROJECTION, FAVOR_PROJECTION_ORTHOGONAL, "orthogonal"},
      {OPTION_PROJECTION, FAVOR_PROJECTION_GAUSSIAN, "gaussian"},
      {OPTION_ROW_NORM, FAVOR_ROW_NORM_SQRT, "sqrt"},
      {OPTION_ROW_NORM, FAVOR_ROW_NORM_CHI, "chi"},
      {OPTION_PRECISION, FAVOR_PRECISION_F32, "f32"},
      {OPTION_PRECISION, FAVOR_PRECISION_F64, "f64"},
      {OPTION_KEY_MAX, FAVOR_KEY_MAX_HEAD, "head"},
      {OPTION_KEY_MAX, FAVOR_KEY_MAX_TENSOR, "tensor"},
      {OPTION_SCAN, FAVOR_SCAN_AUTO, "auto"},
      {OPTION_SCAN, FAVOR_SCAN_EXSCAN, "exscan"},
      {OPTION_SCAN, FAVOR_SCAN_DOUBLING, "doubling"},
      {OPTION_SCAN, FAVOR_SCAN_CHAIN, "chain"},
      {OPTION_LAYOUT, FAVOR_HEADS_FIRST, "heads-first"},
      {OPTION_LAYOUT, FAVOR_TOKENS_FIRST, "tokens-first"},
      {OPTION_TYPE, FAVOR_FLOAT16, "float16"},
      {OPTION_TYPE, FAVOR_BFLOAT16, "bfloat16"},
      {OPTION_TYPE, FAVOR_FLOAT32, "float32"},
      {OPTION_TYPE, FAVOR_FLOAT64, "float64"},
      {OPTION_OUT_TYPE, FAVOR_FLOAT64 + 1, "float64"},
  };
  for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
    assert_string_equal(option_at(choices[i].key)->choices[choices[i].place], choices[i].name);
  }
}

static void test_refused_values(void **state) {
  (void)state;
  refuse("attend in.h5 --features 0", FAVOR_EUSAGE, "--features: '0' is not an integer from 1");
  refuse("attend in.h5 --features -3", FAVOR_EUSAGE, "'-3'");
  refuse("attend in.h5 --features 12x", FAVOR_EUSAGE, "'12x'");
  refuse("attend in.h5 --features=", FAVOR_EUSAGE, "''");
  refuse("attend in.h5 --features 99999999999999999999", FAVOR_EUSAGE, "integer");
  refuse("attend in.h5 --features", FAVOR_EUSAGE, "--features needs a value");
  refuse("attend in.h5 --scale 0", FAVOR_EUSAGE, "--scale");
  refuse("attend in.h5 --scale nan", FAVOR_EUSAGE, "--scale");
  refuse("attend in.h5 --scale inf", FAVOR_EUSAGE, "--scale");
  refuse("attend in.h5 --memory 5T", FAVOR_EUSAGE, "suffix k, M or G");
  refuse("attend in.h5 --memory 99999999999G", FAVOR_EUSAGE, "--memory");
  refuse("attend in.h5 --grid 2", FAVOR_EUSAGE, "HxT");
  refuse("attend in.h5 --grid 0x2", FAVOR_EUSAGE, "HxT");
  refuse("attend in.h5 --causal=maybe", FAVOR_EUSAGE, "true or false");
  refuse("attend in.h5 --map softmax", FAVOR_EUSAGE,
         "not one of: positive, hyperbolic, trigonometric, oprf, relu, elu");
  refuse("attend in.h5 --eps -1e-3", FAVOR_EUSAGE, "--eps: '-1e-3' is not a number from 0");
  refuse("attend in.h5 --eps nan", FAVOR_EUSAGE, "--eps: 'nan' is not a number from 0");
  refuse("attend in.h5 --projection circulant", FAVOR_EUSAGE,
         "not one of: orthogonal, gaussian, hadamard, simplex, none");
  refuse("attend in.h5 --kernel sse2", FAVOR_EUSAGE, "reference");
  refuse("make o.h5 --shape 1,2,3", FAVOR_EUSAGE, "B,H,N,D");
  refuse("make o.h5 --shape 1,2,3,0", FAVOR_EUSAGE, "B,H,N,D");
}

static void test_refused_words(void **state) {
  (void)state;
  refuse("attned in.h5", FAVOR_EUSAGE, "nearest is 'attend'");
  refuse("attend in.h5 --feature 3", FAVOR_EUSAGE, "nearest is --features");
  refuse("attend in.h5 --cuasal", FAVOR_EUSAGE, "nearest is --causal");
  refuse("attend in.h5 --overwirte=true", FAVOR_EUSAGE, "nearest is --overwrite");
  refuse("attend in.h5 -x", FAVOR_EUSAGE, "unknown option -x");
  refuse("attend in.h5 other.h5", FAVOR_EUSAGE, "'other.h5' is one operand too many");
  refuse("attend", FAVOR_EUSAGE, "favor attend IN -o OUT");
  refuse("verify in.h5", FAVOR_EUSAGE, "favor verify IN OUT");
  refuse("version --shape 1,1,1,1", FAVOR_EUSAGE, "unknown option --shape");
}

/* The choices of --profile are none and the library's, in its order. */
static void test_profiles(void **state) {
  (void)state;
  const char *const *choices = option_at(OPTION_PROFILE)->choices;
  assert_string_equal(choices[0], "none");
  for (int i = 0; choices[i]; i++) {
    if (favor_profile_name(i)) assert_string_equal(choices[i + 1], favor_profile_name(i));
    assert_int_equal(choices[i + 1] == NULL, favor_profile_name(i) == NULL);
  }
  accept("attend in.h5 --profile lucidrains --eps 0.0001 --key-max head --row-norm chi --map positive");
  accept(with_config("attend in.h5 --profile idiap", "map = positive\neps = auto\nkey-max = none\nrow-norm = sqrt"));
  accept("attend in.h5 --profile none --eps 1e-3");
  refuse("attend in.h5 --profile lucidrain", FAVOR_EUSAGE, "lucidrains-legacy");
  refuse("attend in.h5 --profile slim --key-max head", FAVOR_EUSAGE,
         "--key-max head contradicts --profile slim, which has key-max none");
  refuse("attend in.h5 --profile idiap --scale 1", FAVOR_EUSAGE,
         "--scale 1 contradicts --profile idiap, which has scale D^-1/2");
  refuse(with_config("attend in.h5 --profile google-jax", "eps = 1e-4"), FAVOR_EUSAGE,
         "--eps 1e-4 contradicts --profile google-jax, which has eps 1e-06");
}

static void test_contradictions(void **state) {
  (void)state;
  refuse("attend in.h5 --quiet --verbose", FAVOR_EUSAGE, "--quiet contradicts --verbose");
  refuse("attend in.h5 --projection-file p.h5 --seed 0", FAVOR_EUSAGE, "--projection-file contradicts --seed");
  refuse("attend in.h5 --projection gaussian --projection-file p.h5", FAVOR_EUSAGE, "contradicts --projection:");
  refuse("make o.h5 --shape 1,1,1,1 --fasta f.fa", FAVOR_EUSAGE, "--shape contradicts --fasta");
  refuse("make o.h5 --shape 1,1,1,1 --dim 3", FAVOR_EUSAGE, "--dim");
  accept("attend in.h5 --quiet --verbose=false");
}

static void test_config(void **state) {
  (void)state;
  accept(with_config("attend in.h5 --features 32",
                     "# comment\n; comment\n\nfeatures = 64\n  causal = yes\nlayer=3 ; three\n"));
  assert_int_equal(options_integer(&options, OPTION_FEATURES), 32);
  assert_true(options_flag(&options, OPTION_CAUSAL));
  assert_int_equal(options_integer(&options, OPTION_LAYER), 3);
  assert_int_equal(options.values[OPTION_LAYER].origin, OPTION_FROM_CONFIG);
  accept(with_config("attend in.h5", "features = 64\n[make]\ntype = float32\n[attend]\ncausal = on\n"));
  assert_true(options_flag(&options, OPTION_CAUSAL));
  accept(with_config("attend in.h5 --causal=false", "causal = on"));
  assert_false(options_flag(&options, OPTION_CAUSAL));
}

static void test_refused_config(void **state) {
  (void)state;
  static char longer[400];
  memset(longer, 'x', sizeof longer - 1);
  memcpy(longer, "query = ", 8);
  refuse(with_config("attend in.h5", "features = 64\nfeature = 3\n"), FAVOR_ECONFIG, ":2: unknown key 'feature'");
  refuse(with_config("attend in.h5", "feature = 3\n"), FAVOR_ECONFIG, "nearest is 'features'");
  refuse(with_config("attend in.h5", "\nfeatures = 0\n"), FAVOR_ECONFIG, ":2: features: '0'");
  refuse(with_config("attend in.h5", "features = 64 # note\n"), FAVOR_ECONFIG, ":1: features");
  refuse(with_config("attend in.h5", "causal = on\ncausal = off\n"), FAVOR_ECONFIG, ":2: causal: given twice");
  refuse(with_config("attend in.h5", "causal\n"), FAVOR_ECONFIG, ":1: not a line");
  refuse(with_config("attend in.h5", "[atend]\ncausal = on\n"), FAVOR_ECONFIG, "[atend] is not a command");
  refuse(with_config("attend in.h5", "[make]\ncausal = on\n"), FAVOR_ECONFIG, "unknown key 'causal' for `favor make`");
  refuse(with_config("attend in.h5", "config = other\n"), FAVOR_ECONFIG, "belongs on the command line");
  refuse(with_config("attend in.h5", longer), FAVOR_ECONFIG, ":1: the line is longer");
  refuse("attend in.h5 --config /nowhere/x.conf", FAVOR_ECONFIG, "No such file");
  refuse("attend in.h5 --config /", FAVOR_ECONFIG, "directory");
  refuse(with_config("attend in.h5 --verbose", "quiet = true\n"), FAVOR_EUSAGE, "contradicts");
  unlink(config_with(""));
}

/* What --print-config prints gives the same options again, also beside an option that contradicts a default in it. */
static void test_printed_config(void **state) {
  (void)state;
  static struct options first;
  accept("attend in.h5 -o out.h5 --causal --features 77 --scale 0.3 --grid 1x2 --memory 2G --layout tokens-first");
  first = options;
  char path[64];
  snprintf(path, sizeof path, "printed_test.%d.conf", (int)getpid());
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  config_print(&first, file);
  fclose(file);
  char line[128];
  snprintf(line, sizeof line, "attend in.h5 --config %s", path);
  accept(line);
  for (int key = 0; key < OPTION_N_KEYS; key++) {
    const struct option *option = option_at((enum option_key)key);
    if (!(option->commands & COMMAND_ATTEND) || !option->is_config_key) continue;
    assert_string_equal(options.values[key].text, first.values[key].text);
    assert_memory_equal(options.values[key].integers, first.values[key].integers, sizeof first.values[key].integers);
    assert_true(options.values[key].number == first.values[key].number);
  }
  snprintf(line, sizeof line, "attend in.h5 --config %s --projection-file p.h5 --verbose", path);
  accept(line);
  unlink(path);
}

static void test_attributes(void **state) {
  (void)state;
  static struct favor_attribute attributes[OPTION_N_KEYS];
  int n, found = 0;
  accept("attend in.h5 --causal --features 77 --projection gaussian --quiet");
  options_attributes(&options, attributes, &n);
  for (int i = 0; i < n; i++) {
    const struct favor_attribute *attribute = &attributes[i];
    assert_string_not_equal(attribute->name, "quiet");
    if (strcmp(attribute->name, "causal") == 0) found += attribute->integer == 1;
    if (strcmp(attribute->name, "features") == 0) found += attribute->integer == 77;
    if (strcmp(attribute->name, "projection") == 0) found += strcmp(attribute->text, "gaussian") == 0;
  }
  assert_int_equal(found, 3);
}

static void test_word_distance(void **state) {
  (void)state;
  assert_int_equal(option_word_distance("causal", "causal"), 0);
  assert_int_equal(option_word_distance("cuasal", "causal"), 1);
  assert_int_equal(option_word_distance("feature", "features"), 1);
  assert_int_equal(option_word_distance("", "abc"), 3);
  assert_int_equal(option_word_distance("kitten", "sitting"), 3);
}

static void test_exit_codes(void **state) {
  (void)state;
  const int expected[FAVOR_N_STATUS] = {0, 75, 1, 64, 78, 65, 73, 74, 70, 70, 70};
  for (int status = 0; status < FAVOR_N_STATUS; status++) {
    assert_int_equal(exit_code((enum favor_status)status), expected[status]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),          cmocka_unit_test(test_kinds),
      cmocka_unit_test(test_choices_are_enums), cmocka_unit_test(test_refused_values),
      cmocka_unit_test(test_refused_words),     cmocka_unit_test(test_profiles),
      cmocka_unit_test(test_contradictions),    cmocka_unit_test(test_config),
      cmocka_unit_test(test_refused_config),    cmocka_unit_test(test_printed_config),
      cmocka_unit_test(test_attributes),        cmocka_unit_test(test_word_distance),
      cmocka_unit_test(test_exit_codes),
  };
  return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
