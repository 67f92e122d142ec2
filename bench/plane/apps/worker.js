// The work on workerd.
export default {
  async fetch(request) {
    const { number, text } = await request.json();
    return Response.json({ number: number + 1, text });
  },
};
