/* example_io IN OUT: causal attention over q, k, v of IN, all three of one shape [H][N][D]. */
#include <favor/favor_io.h>
#include <stdio.h>
#include <stdlib.h>

static struct favor_context *context;

/* Every rank gets the same status, so all leave together. Local errors are reported by the next collective call. */
static void check(enum favor_status status) {
  if (status == FAVOR_OK) return;
  if (favor_context_rank(context) == 0) fprintf(stderr, "%s\n", favor_context_message(context));
  MPI_Finalize();
  exit(1);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) || argc != 3 || favor_context_create(MPI_COMM_WORLD, &context)) return 1;

  const char *const names[3] = {"q", "k", "v"};
  struct favor_tensor *tensor[3];
  struct favor_tensor_shape shape;
  for (int i = 0; i < 3; i++) check(favor_tensor_open(context, argv[1], names[i], FAVOR_HEADS_FIRST, &tensor[i]));
  favor_tensor_shape(tensor[0], &shape);

  struct favor_problem problem = favor_problem_default();
  problem.heads = problem.kv_heads = shape.heads;
  problem.tokens = shape.tokens;
  problem.key_width = problem.value_width = shape.width;
  problem.is_causal = true;
  struct favor_plan *plan;
  check(favor_plan_create(context, &problem, &plan));

  struct favor_shard my; /* the heads and tokens of this rank */
  favor_plan_shard(plan, &my);
  int64_t row = shape.width, head = row * (my.token_end - my.token_begin), all = head * (my.head_end - my.head_begin);
  float *data[4]; /* q, k, v, out */
  for (int i = 0; i < 4; i++)
    if (!(data[i] = calloc((size_t)all + 1, sizeof(float)))) MPI_Abort(MPI_COMM_WORLD, 1);
  for (int i = 0; i < 3; i++)
    favor_tensor_read(tensor[i], my.head_begin, my.head_end, my.token_begin, my.token_end, problem.precision, data[i]);
  struct favor_input q = {data[0], head, row}, k = {data[1], head, row}, v = {data[2], head, row};
  check(favor_plan_execute(plan, &q, &k, &v, &(struct favor_output){data[3], head, row}));

  struct favor_output_file *file;
  struct favor_output_tensor out = {.name = "out", .shape = shape};
  struct favor_output_spec spec = {.path = argv[2], .tensors = &out, .n_tensors = 1};
  check(favor_output_create(context, &spec, &file));
  favor_output_write(file, 0, my.head_begin, my.head_end, my.token_begin, my.token_end, problem.precision, data[3]);
  check(favor_output_finish(&file));

  for (int i = 0; i < 3; i++) favor_tensor_close(&tensor[i]);
  for (int i = 0; i < 4; i++) free(data[i]);
  favor_plan_destroy(&plan);
  favor_context_destroy(&context);
  return MPI_Finalize();
}
